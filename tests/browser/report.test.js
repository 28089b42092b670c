// What a reader does with the page of a report.
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { accessibilityProblems, afterChange, answerStatus, launch, open, openAnswers, pagePath, violations } from "./browser.js";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

async function isQuiet({ page, problems }) {
  assert.deepEqual(problems, []);
  assert.deepEqual(await violations(page), []);
}

const texts = (page, selector) => page.$$eval(selector, (found) => found.map((one) => one.textContent));

for (const name of ["smoke", "sweeps", "hostile", "large", "compare"]) {
  test(`${name}: no request, no error, no violation of the policy`, async () => {
    const opened = await open(browser, name);
    await openAnswers(opened.page);
    await isQuiet(opened);
    await opened.page.close();
  });

  for (const width of [390, 1440, 1920]) {
    test(`${name}: the page does not scroll sideways at ${width} pixels`, async () => {
      const { page } = await open(browser, name, { width });
      await openAnswers(page);
      const [content, view] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
      assert.ok(content <= view, `${content} > ${view}`);
      await page.close();
    });
  }
}

for (const scheme of ["light", "dark"]) {
  for (const name of ["smoke", "sweeps", "hostile", "compare"]) {
    test(`${name}: axe finds nothing serious in ${scheme} colors`, async () => {
      const { page } = await open(browser, name, { scheme });
      await openAnswers(page);
      await page.$$eval("details", (found) => found.forEach((one) => one.setAttribute("open", "")));
      assert.deepEqual(await accessibilityProblems(page), []);
      await page.close();
    });
  }
}

test("without a script the page has its tables, plots and stages", async () => {
  const { page, problems } = await open(browser, "smoke", { script: false });
  assert.ok((await page.$$("table")).length > 2);
  assert.ok((await page.$$("svg.plot")).length > 0);
  assert.ok(await page.$eval(".needs-script", (one) => one.checkVisibility()));
  assert.ok(!(await page.$eval("#answer-browser", (one) => one.checkVisibility())));
  assert.deepEqual(problems, []);
  await page.close();
});

test("a click on a heading sorts a table, and a third click restores the order", async () => {
  const { page } = await open(browser, "large");
  const table = "#table-0 ~ .scroll table";
  const labels = () => page.$eval(table, (one) => [...one.tBodies[0].rows].map((row) => row.cells[0].textContent));
  const original = await labels();
  const button = `${table} thead th:nth-child(2) button`;
  const numbers = () => page.$eval(table, (one) => [...one.tBodies[0].rows].map((row) => Number.parseFloat(row.cells[1].querySelector("b").textContent)));
  await page.click(button);
  const ascending = await numbers();
  assert.deepEqual(ascending, [...ascending].sort((a, b) => a - b));
  assert.equal(await page.$eval(button, (one) => one.closest("th").getAttribute("aria-sort")), "ascending");
  await page.click(button);
  const descending = await numbers();
  assert.deepEqual(descending, [...ascending].sort((a, b) => b - a));
  await page.click(button);
  assert.deepEqual(await labels(), original);
  await page.close();
});

test("the colors can be chosen and are kept", async () => {
  const { page } = await open(browser, "smoke", { scheme: "light" });
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  await page.click("#scheme");
  await page.click("#scheme");
  assert.equal(await page.$eval("#scheme", (one) => one.textContent), "Colors: dark");
  const dark = await background();
  assert.notEqual(dark, light);
  await page.reload();
  assert.equal(await background(), dark);
  await page.click("#scheme");
  assert.equal(await background(), light);
  await page.close();
});

test("the graph zooms by buttons, keys and the wheel", async () => {
  const { page } = await open(browser, "smoke");
  // The answers above the graph take their place when they come into view. A click must not meet the page while it moves.
  await openAnswers(page);
  const width = () => page.$eval("svg.graph", (svg) => svg.viewBox.baseVal.width);
  const full = await width();
  await page.click(".toolbar button[aria-label='zoom in']");
  assert.ok((await width()) < full);
  await page.click(".toolbar button[aria-label='show the whole graph']");
  assert.equal(await width(), full);
  await page.focus(".graph-view");
  await page.keyboard.press("+");
  const zoomed = await width();
  assert.ok(zoomed < full);
  const left = () => page.$eval("svg.graph", (svg) => svg.viewBox.baseVal.x);
  const before = await left();
  await page.keyboard.press("ArrowRight");
  assert.ok((await left()) > before);
  await page.keyboard.press("0");
  assert.equal(await width(), full);
  await page.$eval(".graph-view", (view) => view.dispatchEvent(new WheelEvent("wheel", { deltaY: -100, ctrlKey: true, cancelable: true })));
  assert.ok((await width()) < full);
  await page.close();
});

test("a stage of the graph opens its config, inputs, log and cost by keyboard", async () => {
  const opened = await open(browser, "smoke");
  const { page } = opened;
  await page.$eval("svg.graph a[href='#stage-1']", (one) => one.focus());
  await page.keyboard.press("Enter");
  await page.waitForSelector("dialog[open]");
  const dialog = await page.$eval("dialog", (one) => one.textContent);
  assert.match(dialog, /Config/);
  assert.match(dialog, /Results/);
  await page.keyboard.press("Escape");
  assert.equal(await page.$("dialog"), null);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("href")), "#stage-1");
  const all = await page.$$eval(".stages .stage", (stages) => stages.map((stage) => stage.textContent).join(" "));
  assert.match(all, /Inputs/);
  await isQuiet(opened);
  await page.close();
});

test("the values of a plot can be read by keyboard", async () => {
  const { page } = await open(browser, "sweeps");
  await page.$eval("svg.plot", (one) => one.focus());
  await page.keyboard.press("ArrowRight");
  const readout = await page.$eval("svg.plot + .readout", (one) => one.textContent);
  assert.match(readout, /^n 1 — plain: \d+\.\d/);
  await page.keyboard.press("End");
  assert.match(await page.$eval("svg.plot + .readout", (one) => one.textContent), /^n 16 — /);
  await page.close();
});

test("sweeps are drawn as lines, a heat map and a ternary plot", async () => {
  const { page } = await open(browser, "sweeps");
  assert.equal(await page.$$eval("#table-0 ~ .plots .plot .band", (bands) => bands.length), 2);
  assert.equal(await page.$$eval("table.heat tbody td", (cells) => cells.length), 9);
  assert.equal(await page.$$eval("svg.ternary .mix", (mixes) => mixes.length), 15);
  assert.ok((await page.$$("svg.ternary polygon")).length > 100);
  const styles = await page.$$eval("#curves ~ .plots .plot .line", (lines) => lines.map((line) => line.getAttribute("class")));
  assert.equal(new Set(styles).size, styles.length);
  await page.close();
});

test("answers are filtered, and the filter is in the address", async () => {
  const { page } = await open(browser, "hostile");
  await openAnswers(page);
  assert.match(await answerStatus(page), /^3,334 answers match/);
  assert.match(await afterChange(page, () => page.select("select[name=cell]", "all")), /^20,000 answers match/);
  assert.match(await afterChange(page, () => page.select("select[name=dataset]", "<b>1</b>")), /^6,666 answers match/);
  const truncated = await afterChange(page, () => page.click("input[name=truncated]"));
  // Every 50th of 10,000 items is truncated; 66 of these 200 are in the data set; there are two models.
  assert.match(truncated, /^132 answers match/);
  const address = page.url();
  assert.match(address, /#answers\?cell=all&dataset=/);
  await afterChange(page, () => page.click("#answer-browser button[type=reset]"));
  assert.match(await answerStatus(page), /^3,334 answers match/);
  await page.close();
  const again = await open(browser, "hostile", { fragment: `#${address.split("#")[1]}` });
  await again.page.waitForSelector("#answer-browser[data-ready]");
  assert.match(await answerStatus(again.page), /^132 answers match/);
  await again.page.close();
});

test("verdicts and unreadable answers can be chosen", async () => {
  const { page } = await open(browser, "hostile");
  await openAnswers(page);
  await afterChange(page, () => page.select("select[name=cell]", "eval@model=a"));
  const partly = await afterChange(page, () => page.select("select[name=verdict]", "partly"));
  assert.match(partly, /^1,000 answers match/);
  await afterChange(page, () => page.select("select[name=verdict]", ""));
  const unreadable = await afterChange(page, () => page.click("input[name=unreadable]"));
  // Multiples of 11 below 10,000 that are not multiples of 3.
  const expected = Array.from({ length: 10_000 }, (_, item) => item).filter((item) => item % 11 === 0 && item % 3 !== 0).length;
  assert.match(unreadable, new RegExp(`^${expected} answers match`));
  await page.close();
});

test("flips between two evaluations are found in both directions", async () => {
  const { page } = await open(browser, "hostile");
  await openAnswers(page);
  await afterChange(page, () => page.select("select[name=cell]", "eval@model=a"));
  await afterChange(page, () => page.select("select[name=with]", "eval@model=b"));
  const right = { a: (item) => item % 3 === 0 || item % 10 === 9, b: (item) => item % 4 === 0 || item % 10 === 9 };
  const count = (test) => Array.from({ length: 10_000 }, (_, item) => item).filter(test).length.toLocaleString("en-US");
  const gained = await afterChange(page, () => page.select("select[name=flip]", "gained"));
  assert.ok(gained.startsWith(`${count((item) => right.a(item) && !right.b(item))} answers match`), gained);
  const lost = await afterChange(page, () => page.select("select[name=flip]", "lost"));
  assert.ok(lost.startsWith(`${count((item) => !right.a(item) && right.b(item))} answers match`), lost);
  const marks = await texts(page, "#answer-browser li:first-child .response header");
  assert.match(marks[0], /wrong/);
  assert.match(marks[1], /right/);
  await page.close();
});

test("the text of all answers can be searched, and pages turned", async () => {
  const { page } = await open(browser, "hostile");
  await openAnswers(page);
  await afterChange(page, () => page.select("select[name=cell]", "eval@model=a"));
  const found = await afterChange(page, () => page.type("input[name=q]", "question 4321 "));
  assert.match(found, /^1 answer matches/);
  assert.match((await texts(page, "#answer-browser .question"))[0], /^question 4321 /);
  await afterChange(page, () => page.$eval("input[name=q]", (input) => {
    input.value = "";
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }));
  const next = "#answer-browser nav button[value='1']";
  assert.match(await afterChange(page, () => page.click(next)), /Page 2 of/);
  assert.equal(await page.$eval("#answer-browser ol", (list) => list.start), 21);
  await page.close();
});

test("hostile texts are shown as text", async () => {
  const opened = await open(browser, "hostile");
  const { page } = opened;
  await openAnswers(page);
  for (const [dataset, text] of [
    ["<b>0</b>", "</script><script>alert('script')</script>"],
    ["<b>1</b>", "<!-- <script> --"],
    ["<b>2</b>", "<img src=x onerror=alert('image')>"],
  ]) {
    await afterChange(page, () => page.select("select[name=cell]", "eval@model=a"));
    await afterChange(page, () => page.select("select[name=dataset]", dataset));
    assert.ok((await texts(page, "#answer-browser pre")).join("\n").includes(text), text);
  }
  const injected = await page.evaluate(() => ({
    scripts: [...document.scripts].filter((script) => !["", "application/octet-stream"].includes(script.type) || /alert/.test(script.textContent)).length,
    handlers: document.querySelectorAll("[onerror], [onload], [onclick]").length,
    italic: document.querySelectorAll("main i[onclick], img[src=x]").length,
  }));
  assert.deepEqual(injected, { scripts: 0, handlers: 0, italic: 0 });
  await isQuiet(opened);
  await page.close();
});

test("thinking is folded", async () => {
  const { page } = await open(browser, "hostile", { fragment: "#answers?cell=eval%40model%3Da&q=details" });
  await page.waitForSelector("#answer-browser[data-ready] details.thinking");
  assert.equal(await page.$eval("details.thinking", (one) => one.open), false);
  assert.equal(await page.$eval("details.thinking pre", (one) => one.textContent), "</details>");
  await page.close();
});

test("images are shown with the answers of the smoke experiment", async () => {
  const opened = await open(browser, "smoke");
  await openAnswers(opened.page);
  await opened.page.waitForFunction(() => [...document.querySelectorAll("#answer-browser img")].some((image) => image.naturalWidth > 0));
  await isQuiet(opened);
  await opened.page.close();
});

test("a comparison leads to the changed answers, with both responses and the image", async () => {
  const opened = await open(browser, "compare");
  const { page } = opened;
  const titles = await texts(page, "h2");
  assert.equal(titles[0], "Parameters that differ");
  const [link, count] = await page.$$eval("#flips ~ .scroll a", (links) => {
    const most = links.reduce((one, other) => (Number(one.textContent) >= Number(other.textContent) ? one : other));
    most.dataset.chosen = "";
    return ["a[data-chosen]", Number(most.textContent)];
  });
  assert.ok(count > 0);
  // The browser of the answers is opened by the link.
  await page.$eval(link, (one) => one.click());
  await page.waitForSelector("#answer-browser[data-ready]");
  assert.match(await answerStatus(page), new RegExp(`^${count} answers? match`));
  const headers = await texts(page, "#answer-browser li:first-child .response header");
  assert.equal(headers.length, 2);
  assert.notEqual(/right/.test(headers[0]), /right/.test(headers[1]));
  assert.match(headers[0], /model=sft/);
  assert.match(headers[1], /model=base/);
  await page.waitForFunction(() => document.querySelector("#answer-browser li:first-child img")?.naturalWidth > 0);
  // One seed of a group, as a cell of its own.
  const cells = await page.$$eval("select[name=cell] option", (options) => options.map((option) => option.value));
  const seeds = cells.filter((cell) => /^cell .*, seed [01]$/.test(cell));
  assert.equal(seeds.length, 8, cells.join("\n"));
  await isQuiet(opened);
  await page.close();
});

test("everything is reachable by keyboard", async () => {
  const { page } = await open(browser, "sweeps");
  await openAnswers(page);
  await page.evaluate(() => window.scrollTo(0, 0));
  const reached = new Set();
  for (let press = 0; press < 400; press += 1) {
    await page.keyboard.press("Tab");
    const name = await page.evaluate(() => {
      const { activeElement: one } = document;
      return one.getAttribute("name") ?? one.getAttribute("aria-label") ?? one.id ?? one.className?.baseVal ?? one.className;
    });
    reached.add(name);
    if (reached.has("graph of the stages")) break;
  }
  for (const name of ["scheme", "cell", "with", "q", "unreadable", "zoom in", "graph of the stages"]) assert.ok(reached.has(name), `${name}: ${[...reached]}`);
  await page.close();
});

test("a printed page shows the tables and no controls", async () => {
  const { page } = await open(browser, "smoke", { scheme: "dark" });
  await page.emulateMediaType("print");
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(255, 255, 255)");
  assert.ok(!(await page.$eval("#scheme", (one) => one.checkVisibility())));
  assert.ok(!(await page.$eval("nav", (one) => one.checkVisibility())));
  assert.ok((await page.pdf()).length > 10_000);
  await page.close();
});

test("the page of 20 models, 50 data sets and 14,000 items is small, and its time is shown", async (context) => {
  const size = statSync(pagePath("large")).size;
  assert.ok(size < 20e6, `${size} bytes`);
  const { page } = await open(browser, "large");
  const timing = await page.evaluate(() => performance.getEntriesByType("navigation")[0].toJSON());
  const start = Date.now();
  await openAnswers(page);
  context.diagnostic(`${(size / 1e6).toFixed(1)} MB, opened in ${Math.round(timing.loadEventEnd)} ms, answers after another ${Date.now() - start} ms`);
  assert.match(await answerStatus(page), /match/);
  await page.close();
});

if (process.env.SCREENSHOTS) {
  for (const name of ["smoke", "sweeps", "hostile", "large", "compare"]) {
    for (const scheme of ["light", "dark"]) {
      for (const width of [390, 1440, 1920]) {
        test(`screenshot of ${name} at ${width} pixels, ${scheme}`, async () => {
          const { page } = await open(browser, name, { width, scheme });
          await openAnswers(page);
          await page.evaluate(() => window.scrollTo(0, 0));
          await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}-${width}-${scheme}.png`), fullPage: true });
          await page.close();
        });
      }
    }
  }
}
