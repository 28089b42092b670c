// One answer of the browser, with the answer that it is compared with.

function verdictMark(verdict) {
  if (!(verdict & ANSWERED)) return element("span", { class: "muted" }, "no answer");
  return verdict & RIGHT ? element("span", { class: "up" }, "✓ right") : element("span", { class: "down" }, "✗ wrong");
}

function verdictRemarks(verdict, answer) {
  const remarks = [];
  if (answer) {
    if (answer.answer === null) remarks.push("no answer found");
    else remarks.push(element("span", {}, "answer ", element("code", { dir: "auto" }, answer.answer)));
    if (verdict & PARTLY) remarks.push(`score ${answer.score.toFixed(2)}`);
  }
  if (verdict & UNREADABLE) remarks.push("could not be read");
  if (verdict & TRUNCATED) remarks.push("truncated at the token limit");
  else if (verdict & NOT_COMPLIANT) remarks.push("not in the prompt's format");
  const line = element("p");
  remarks.forEach((remark, index) => line.append(index > 0 ? " · " : "", remark));
  return line;
}

function responseView(data, evaluation, item, texts) {
  const verdict = data.verdict(evaluation, item);
  const answer = texts && data.answer(texts, evaluation);
  const view = element(
    "section",
    { class: "response" },
    element("header", {}, element("span", {}, data.index.evaluations[evaluation].name), verdictMark(verdict)),
  );
  if (answer) {
    if (answer.thinking) {
      view.append(element("details", { class: "thinking" }, element("summary", {}, "thinking"), element("pre", { dir: "auto", tabindex: 0 }, answer.thinking)));
    }
    view.append(element("pre", { dir: "auto", tabindex: 0 }, answer.response || "(empty response)"));
  }
  view.append(verdictRemarks(verdict, answer));
  return view;
}

// The answers of all other evaluations to an item, as a list of marks.
function otherAnswers(data, item, texts, shown) {
  const others = data.index.evaluations.map((_, number) => number).filter((number) => !shown.includes(number) && data.verdict(number, item) & ANSWERED);
  if (others.length === 0) return "";
  const details = element("details", { class: "others" }, element("summary", {}, others.length === 1 ? "another answer to this item" : `${whole(others.length)} other answers to this item`));
  details.addEventListener(
    "toggle",
    () => {
      const list = element("ul", { class: "chips" });
      for (const number of others) {
        const answer = texts && data.answer(texts, number);
        const entry = element("li", {}, `${data.index.evaluations[number].name} `, verdictMark(data.verdict(number, item)));
        if (answer?.answer) entry.append(" ", element("code", { dir: "auto" }, answer.answer));
        list.append(entry);
      }
      details.append(list);
    },
    { once: true },
  );
  return details;
}

// The first lines that both prompts share: the question, without the instructions if these differ.
function sharedLines(one, other) {
  const [lines, others] = [one.split("\n"), other.split("\n")];
  const differ = lines.findIndex((line, index) => line !== others[index]);
  return differ <= 0 ? one : lines.slice(0, differ).join("\n");
}

async function answerView(data, [item, evaluation, other]) {
  const texts = await data.texts(item);
  const { id, dataset } = data.index.items;
  const shown = other < 0 ? [evaluation] : [evaluation, other];
  const body = element("div");
  if (texts) {
    const prompts = shown.map((one) => data.answer(texts, one)?.prompt ?? "");
    body.append(element("p", { class: "question", dir: "auto" }, prompts.length > 1 ? sharedLines(prompts[0], prompts[1]) : prompts[0]));
  }
  const facts = element("p", { class: "sub" });
  if (texts?.gold.length) {
    facts.append("gold ");
    texts.gold.forEach((gold, index) => facts.append(index > 0 ? " or " : "", element("code", { dir: "auto" }, gold)));
    facts.append(" · ");
  }
  facts.append(`${data.datasets[dataset[item]]} · `, element("span", { dir: "auto" }, id[item]));
  if (!texts) facts.append(" · the texts of this item are not on this page");
  body.append(facts);
  body.append(element("div", { class: shown.length > 1 ? "pair" : "single" }, ...shown.map((one) => responseView(data, one, item, texts))));
  body.append(otherAnswers(data, item, texts, shown));
  const images = element("div", { class: "images" });
  let missing = 0;
  for (const number of texts?.images ?? []) {
    const url = await data.image(number);
    if (url) images.append(element("img", { src: url, alt: `image of ${id[item]}`, loading: "lazy" }));
    else missing += 1;
  }
  if (missing > 0) images.append(element("p", { class: "sub" }, missing > 1 ? `${missing} images are not on this page` : "its image is not on this page"));
  const hasImages = images.childNodes.length > 0;
  return element("article", { class: hasImages ? "sample" : "sample plain" }, ...(hasImages ? [images] : []), body);
}
