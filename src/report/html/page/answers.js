// The browser of all answers.

const PAGE_SIZE = 20;

class AnswerBrowser {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.form = root.querySelector("form");
    this.list = root.querySelector("ol");
    this.status = root.querySelector("output");
    this.pager = root.querySelector("nav");
    this.filter = filterFromAddress();
    this.rows = [];
    // Counts updates: a later one ends an earlier one that still searches.
    this.update = 0;
    this.fillForm();
    this.form.addEventListener("input", () => this.readForm());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.filter = { ...FILTER_DEFAULTS };
      this.showForm();
      this.refresh();
    });
    this.pager.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => this.turn(Number(button.value))));
    window.addEventListener("hashchange", () => {
      if (!location.hash.startsWith("#answers?")) return;
      this.filter = filterFromAddress();
      this.showForm();
      this.refresh().then(() => this.root.scrollIntoView());
    });
  }

  control(name) {
    return this.form.elements.namedItem(name);
  }

  fillForm() {
    const option = ({ value, label }) => element("option", { value }, label);
    for (const name of ["cell", "with"]) {
      const select = this.control(name);
      if (name === "with") select.append(element("option", { value: "" }, "nothing"));
      const groups = new Map();
      for (const choice of this.data.choices) {
        if (name === "with" && choice.value === "all") continue;
        if (!choice.group) {
          select.append(option(choice));
          continue;
        }
        if (!groups.has(choice.group)) {
          groups.set(choice.group, element("optgroup", { label: choice.group }));
          select.append(groups.get(choice.group));
        }
        groups.get(choice.group).append(option(choice));
      }
    }
    const datasets = this.control("dataset");
    datasets.append(element("option", { value: "" }, "all data sets"));
    this.data.datasets.forEach((name) => datasets.append(element("option", { value: name }, name)));
    const all = this.data.index.items.chunk.every((chunk) => chunk >= 0);
    this.control("texts").closest("label").hidden = all;
    this.showForm();
  }

  showForm() {
    for (const [name, value] of Object.entries(this.filter)) {
      const control = this.control(name);
      if (!control) continue;
      if (control.type === "checkbox") control.checked = value === "1";
      else if (name === "cell") control.value = this.data.choice(value) ? value : this.data.choices[0].value;
      else control.value = value;
    }
    this.control("flip").disabled = !this.filter.with;
  }

  readForm() {
    for (const name of Object.keys(FILTER_DEFAULTS)) {
      const control = this.control(name);
      if (!control) continue;
      this.filter[name] = control.type === "checkbox" ? (control.checked ? "1" : "") : control.value;
    }
    if (this.filter.cell === this.data.choices[0].value) this.filter.cell = "";
    if (!this.filter.with) this.filter.flip = "";
    this.filter.page = "1";
    this.showForm();
    filterToAddress(this.filter);
    this.refresh();
  }

  turn(by) {
    this.filter.page = String(this.page() + by);
    filterToAddress(this.filter);
    this.show().then(() => this.root.scrollIntoView());
  }

  pages() {
    return Math.max(1, Math.ceil(this.rows.length / PAGE_SIZE));
  }

  page() {
    return Math.max(1, Math.min(this.pages(), Math.trunc(Number(this.filter.page)) || 1));
  }

  async refresh() {
    this.update += 1;
    const update = this.update;
    let rows = matchingAnswers(this.data, this.filter);
    const words = this.filter.q.trim().toLowerCase();
    if (words) {
      const found = [];
      for (const [index, row] of rows.entries()) {
        if (await contains(this.data, row, words)) found.push(row);
        if (index % 500 !== 0) continue;
        // Lets the page answer, and ends if the filter has changed.
        this.status.textContent = `searching: ${whole(index)} of ${whole(rows.length)}`;
        await new Promise((resolve) => setTimeout(resolve));
        if (update !== this.update) return;
      }
      rows = found;
    }
    if (update !== this.update) return;
    const matching = rows.length;
    if (this.filter.texts) rows = rows.filter(([item]) => this.data.hasTexts(item));
    this.rows = rows;
    const left = matching - rows.length;
    this.summary = `${whole(matching)} ${matching === 1 ? "answer matches" : "answers match"}`;
    if (left > 0) this.summary += `; the texts of ${whole(rows.length)} are on this page`;
    await this.show();
  }

  async show() {
    const update = this.update;
    const page = this.page();
    const rows = this.rows.slice((page - 1) * PAGE_SIZE, page * PAGE_SIZE);
    const views = await Promise.all(rows.map((row) => answerView(this.data, row)));
    if (update !== this.update) return;
    this.list.replaceChildren(...views.map((view) => element("li", {}, view)));
    this.list.setAttribute("start", (page - 1) * PAGE_SIZE + 1);
    this.status.textContent = `${this.summary}. Page ${page} of ${whole(this.pages())}.`;
    const [back, forward] = this.pager.querySelectorAll("button");
    back.disabled = page === 1;
    forward.disabled = page === this.pages();
    this.root.dataset.ready = "";
  }
}

async function openAnswers(root) {
  const failed = root.parentElement.querySelector(".needs-script");
  try {
    const browser = new AnswerBrowser(root, await AnswerData.load());
    failed.remove();
    root.hidden = false;
    if (location.hash.startsWith("#answers?")) root.scrollIntoView();
    await browser.refresh();
  } catch (error) {
    failed.textContent = `The answers cannot be shown: ${error.message}. They need a browser with DecompressionStream.`;
  }
}

// The index is read when the answers come near the window, or when the address names some.
function setUpAnswers() {
  const root = document.getElementById("answer-browser");
  if (!root) return;
  let opened = false;
  const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && open(), { rootMargin: "600px" });
  const open = () => {
    if (opened) return;
    opened = true;
    observer.disconnect();
    openAnswers(root);
  };
  const openNamed = () => location.hash.startsWith("#answers?") && open();
  window.addEventListener("hashchange", openNamed);
  // A link to the address that the page already has changes no address.
  for (const link of document.querySelectorAll("a[href^='#answers?']")) {
    link.addEventListener("click", () => link.hash === location.hash && root.scrollIntoView());
  }
  observer.observe(root.parentElement);
  openNamed();
}
