// Opens pages in Chromium and notes everything that a report must not do.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const pages = process.env.PAGES;

export function pagePath(name) {
  return join(pages, `${name}.html`);
}

export function launch() {
  const root = process.getuid?.() === 0;
  return puppeteer.launch({ executablePath: process.env.CHROMIUM, args: root ? ["--no-sandbox"] : [] });
}

// Opens a page that is a file. `problems` gets requests, errors, dialogs and violations of the content security policy.
export function open(browser, name, { fragment = "", ...settings } = {}) {
  const address = pathToFileURL(pagePath(name)).href;
  return openAddress(browser, address + fragment, (url) => url.split("#")[0] === address, settings);
}

// Opens an address, from which the page may request what `isAllowed` accepts.
export async function openAddress(browser, address, isAllowed, { width = 1280, height = 900, scheme = "light", script = true, reducedMotion = true } = {}) {
  const page = await browser.newPage();
  const problems = [];
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && problems.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    problems.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = request.url();
    if (!isAllowed(url) && !url.startsWith("data:") && !url.startsWith("blob:")) problems.push(`request: ${url}`);
  });
  await page.evaluateOnNewDocument(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.setJavaScriptEnabled(script);
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: scheme },
    ...(reducedMotion ? [{ name: "prefers-reduced-motion", value: "reduce" }] : []),
  ]);
  await page.goto(address, { waitUntil: "load" });
  return { page, problems };
}

// Waits until the browser of answers shows answers.
export async function openAnswers(page) {
  await page.evaluate(() => document.getElementById("answers").scrollIntoView());
  await page.waitForSelector("#answer-browser[data-ready]");
}

export async function answerStatus(page) {
  return page.$eval("#answer-browser output", (output) => output.textContent);
}

// Waits for the number of matching answers to be known after `change`, and returns the status.
export async function afterChange(page, change) {
  await page.$eval("#answer-browser output", (output) => {
    output.textContent = "waiting";
  });
  await change();
  await page.waitForFunction(() => /match/.test(document.querySelector("#answer-browser output").textContent));
  return answerStatus(page);
}

export async function violations(page) {
  return page.evaluate(() => window.violations);
}

// The serious and critical findings of axe, as text.
export async function accessibilityProblems(page) {
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const serious = found.filter(({ impact }) => ["serious", "critical"].includes(impact));
  return serious.map(({ id, nodes }) => `${id}: ${nodes.length} x ${nodes[0].html.slice(0, 200)} ${nodes[0].failureSummary}`);
}
