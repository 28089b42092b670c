// Sorts tables by a column: ascending, descending, and the order of the file again.

// The number at the beginning of a cell, or null.
function cellNumber(text) {
  const plain = text.replace(/,/g, "").replace(/−/g, "-").replace(/·10/, "e");
  const number = Number.parseFloat(plain.replace(/^[+<(]/, ""));
  return Number.isNaN(number) ? null : number;
}

function sortKey(cell) {
  if (!cell) return "";
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = (cell.querySelector("b") ?? cell).textContent.trim();
  if (!cell.classList.contains("num")) return text.toLowerCase();
  return cellNumber(text) ?? "";
}

// Cells without a value come last in both directions.
function compareKeys(one, other, direction) {
  if (one === "" || other === "") return (one === "") - (other === "");
  const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
  return order * direction;
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const original = [...body.rows];
  if (original.length < 2) return;
  heads.forEach((head, column) => {
    const button = element("button", { type: "button", class: "sort" });
    if (head.textContent.trim() === "") button.setAttribute("aria-label", "sort by the first column");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const next = before === null ? "ascending" : before === "ascending" ? "descending" : null;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      let rows = original;
      if (next) {
        head.setAttribute("aria-sort", next);
        const direction = next === "ascending" ? 1 : -1;
        const keyed = original.map((row) => [sortKey(row.cells[column]), row]);
        keyed.sort((one, other) => compareKeys(one[0], other[0], direction));
        rows = keyed.map(([, row]) => row);
      }
      body.append(...rows);
    });
  });
}

function setUpTables() {
  document.querySelectorAll("table.sortable").forEach(makeSortable);
}
