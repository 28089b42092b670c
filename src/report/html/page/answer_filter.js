// Which answers are shown: the choices of the form, also as the fragment of the page's address.

const FILTER_DEFAULTS = {
  cell: "",
  with: "",
  flip: "",
  dataset: "",
  verdict: "",
  unreadable: "",
  truncated: "",
  form: "",
  q: "",
  texts: "1",
  page: "1",
};

function filterFromAddress() {
  const filter = { ...FILTER_DEFAULTS };
  const fragment = location.hash.slice(1);
  const [place, query] = [fragment.split("?")[0], fragment.slice(fragment.indexOf("?") + 1)];
  if (place !== "answers" || !fragment.includes("?")) return filter;
  for (const [key, value] of new URLSearchParams(query)) {
    if (key in filter) filter[key] = value;
  }
  return filter;
}

function filterToAddress(filter) {
  const changed = Object.entries(filter).filter(([key, value]) => value !== FILTER_DEFAULTS[key]);
  history.replaceState(null, "", `#answers?${new URLSearchParams(changed)}`);
}

// Whether the verdicts of an answer, and of the answer that it is compared with, pass the filter.
function passes(filter, verdict, other) {
  if (!(verdict & ANSWERED)) return false;
  if (filter.verdict === "right" && !(verdict & RIGHT)) return false;
  if (filter.verdict === "wrong" && verdict & RIGHT) return false;
  if (filter.verdict === "partly" && !(verdict & PARTLY)) return false;
  if (filter.unreadable && !(verdict & UNREADABLE)) return false;
  if (filter.truncated && !(verdict & TRUNCATED)) return false;
  if (filter.form && !(verdict & NOT_COMPLIANT)) return false;
  if (!filter.with) return true;
  if (!(other & ANSWERED)) return false;
  const [here, there] = [(verdict & RIGHT) !== 0, (other & RIGHT) !== 0];
  if (filter.flip === "gained") return here && !there;
  if (filter.flip === "lost") return !here && there;
  if (filter.flip === "either") return here !== there;
  return true;
}

// The answers that pass everything except the search: item, evaluation, and the compared evaluation or -1.
function matchingAnswers(data, filter) {
  const choice = data.choice(filter.cell) ?? data.choices[0];
  const compared = data.choice(filter.with);
  const dataset = filter.dataset === "" ? null : data.datasets.indexOf(filter.dataset);
  const rows = [];
  const partners = (evaluation) => (compared ? data.partners(evaluation, compared.evaluations) : [-1]);
  const pairs = choice.evaluations.flatMap((evaluation) => partners(evaluation).map((other) => [evaluation, other]));
  for (let item = 0; item < data.count; item += 1) {
    const own = data.index.items.dataset[item];
    if (dataset !== null && own !== dataset) continue;
    if (choice.dataset !== undefined && own !== choice.dataset) continue;
    for (const [evaluation, other] of pairs) {
      if (passes(filter, data.verdict(evaluation, item), other < 0 ? 0 : data.verdict(other, item))) rows.push([item, evaluation, other]);
    }
  }
  return rows;
}

// Whether the texts of an answer contain the words. Items without texts are found by their id.
async function contains(data, [item, evaluation, other], words) {
  if (data.index.items.id[item].toLowerCase().includes(words)) return true;
  const texts = await data.texts(item);
  if (!texts) return false;
  const found = [evaluation, other].filter((one) => one >= 0).map((one) => data.answer(texts, one));
  const all = found.flatMap((answer) => (answer ? [answer.prompt, answer.response, answer.thinking, answer.answer ?? ""] : []));
  return [...all, ...texts.gold].some((text) => text.toLowerCase().includes(words));
}
