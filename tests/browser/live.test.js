// What a reader does with the pages of `ablate serve` while a training goes on.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { accessibilityProblems, launch, openAddress, violations } from "./browser.js";

const experiments = join(import.meta.dirname, "../../experiments");
const folder = mkdtempSync(join(tmpdir(), "ablate-live-"));
let browser, run, server, address;

function start(...parameters) {
  return spawn(process.env.PROGRAM, parameters, { cwd: folder, stdio: ["ignore", "pipe", "ignore"] });
}

before(async () => {
  for (const name of ["reasoner.toml", "smoke.toml"]) copyFileSync(join(experiments, name), join(folder, name));
  const talk = "i=0; while true; do i=$((i+1)); echo \"line $i </pre><b id=hostile>\"; sleep 0.3; done";
  writeFileSync(join(folder, "live.toml"), `extends = "smoke.toml"\nname = "live"\n[stage.base]\nsteps = 400000\n[stage.talk]\nkind = "command"\noutputs = ["o"]\nrun = '''${talk}'''\n`);
  execFileSync(process.env.PROGRAM, ["run", "live.toml", "--quiet", "fresh", "lessons"], { cwd: folder, stdio: "ignore" });
  run = start("run", "live.toml", "--jobs", "2", "--only", "base@seed=0", "--only", "talk");
  server = start("serve", "--port", "0");
  address = await new Promise((resolve) => server.stdout.once("data", (text) => resolve(String(text).trim())));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  for (const child of [run, server]) {
    if (child && child.exitCode === null) {
      child.kill("SIGTERM");
      await new Promise((resolve) => child.once("exit", resolve));
    }
  }
  execFileSync("chmod", ["-R", "u+w", folder]);
  rmSync(folder, { recursive: true });
});

const openLive = (path, settings) => openAddress(browser, new URL(path, address).href, (url) => url.startsWith(address), settings);

async function isQuiet({ page, problems }) {
  assert.deepEqual(problems, []);
  assert.deepEqual(await violations(page), []);
}

const lastX = (page) => page.$eval('[data-part="curves"] polyline.line', (line) => line.getAttribute("points"));

for (const path of ["experiments/live", "runs/latest"]) {
  test(`${path}: the curve grows and the log follows`, async () => {
    const opened = await openLive(path);
    const { page } = opened;
    await page.waitForSelector('[data-part="curves"] polyline.line', { timeout: 60_000 });
    const points = await lastX(page);
    await page.waitForFunction((old) => document.querySelector('[data-part="curves"] polyline.line').getAttribute("points") !== old, { timeout: 30_000 }, points);
    const log = await page.$eval('[data-part="logs"]', (one) => one.textContent);
    await page.waitForFunction((old) => document.querySelector('[data-part="logs"]').textContent !== old, { timeout: 30_000 }, log);
    assert.equal(await page.$("#hostile"), null);
    await isQuiet(opened);
    await page.close();
  });
}

for (const scheme of ["light", "dark"]) {
  for (const path of ["", "runs/latest", "runs/latest/logs/talk"]) {
    test(`/${path}: axe finds nothing serious in ${scheme} colors`, async () => {
      const { page } = await openLive(path, { scheme });
      if (path === "runs/latest") await page.waitForSelector("progress", { timeout: 60_000 });
      assert.deepEqual(await accessibilityProblems(page), []);
      await page.close();
    });
  }
}

test("changes keep the focus and an open list", async () => {
  const { page } = await openLive("runs/latest");
  await page.waitForSelector("#stop-talk", { timeout: 60_000 });
  await page.focus("#stop-talk");
  const text = () => page.$eval('[data-part="state"]', (one) => one.textContent);
  const old = await text();
  await page.waitForFunction((before) => document.querySelector('[data-part="state"]').textContent !== before, { timeout: 30_000 }, old);
  assert.equal(await page.evaluate(() => document.activeElement.id), "stop-talk");
  await page.close();
});

test("a stage is stopped with the keyboard, and the page says when the run has ended", async () => {
  const opened = await openLive("runs/latest");
  const { page } = opened;
  await page.waitForSelector("#stop-talk", { timeout: 60_000 });
  await page.focus("#stop-talk");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => /`talk` stops/.test(document.getElementById("answer").textContent), { timeout: 30_000 });
  await page.waitForFunction(() => /1 interrupted/.test(document.querySelector('[data-part="news"]').textContent), { timeout: 60_000 });
  await page.waitForSelector("#stop-");
  await page.focus("#stop-");
  await page.keyboard.press("Space");
  await page.waitForFunction(() => /was interrupted/.test(document.querySelector('[data-part="news"]').textContent), { timeout: 90_000 });
  assert.ok(await page.$('[data-part="news"] a'));
  await page.$eval("#ended", (one) => one.setAttribute("open", ""));
  assert.ok(await page.$("#retry-talk"));
  await isQuiet(opened);
  await page.close();
});
