// The demo in headless Chromium: two tabs talk, one reloads and sees the history, a lost connection comes back by
// itself, a phone shows all of it, a letter waits for who has closed the tab. Needs a running server and Chromium (apt-get install chromium).
//
//   node demo.mjs --url http://127.0.0.1:8000/ [--chromium /usr/bin/chromium] [--screenshots DIR] [--show]
//
// Exit code 0: every step passed. Waits are bounded by TIMEOUT_MS and end as soon as the page shows what is expected.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const TIMEOUT_MS = 20_000;
const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    chromium: { type: "string", default: process.env.CHROMIUM ?? "/usr/bin/chromium" },
    screenshots: { type: "string" },
    show: { type: "boolean", default: false },
  },
});
if (!options.url) {
  console.error("usage: node demo.mjs --url http://127.0.0.1:PORT/ [--chromium PATH] [--screenshots DIR] [--show]");
  process.exit(2);
}

/** A room of this run alone, so that a server that is already in use does not disturb it. */
const room = `test-${Date.now().toString(36)}`;
const address = new URL(`#${room}`, options.url).href;
const complaints = [];

/** A tab with its own session storage, that is, its own user. */
async function open(browser, who, settings = {}) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...settings });
  await context.addInitScript((name) => sessionStorage.getItem("name") ?? sessionStorage.setItem("name", name), who);
  await context.addInitScript(breakableNetwork);
  return openTab(context, who);
}

/** One more tab of the same browser, as its owner knows it. */
async function openTab(context, who) {
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  page.on("pageerror", (error) => complaints.push(`${who}: ${error}`));
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(`${who}: ${message.text()}`);
  });
  await page.goto(address);
  await connected(page);
  return page;
}

const connected = (page) => page.locator("#status[data-state=connected]").waitFor();
const message = (page, text) => page.locator(".message .text", { hasText: text });
const people = (page) => page.locator("#people .person");

async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send" }).click();
  await message(page, text).waitFor();
}

/** Waits until the list of those who are here is exactly this. */
async function hereAre(page, names) {
  const expected = [...names].sort((a, b) => a.localeCompare(b));
  await page.waitForFunction((wanted) => {
    const shown = [...document.querySelectorAll("#people .person")].map((person) => person.textContent);
    return JSON.stringify(shown) === JSON.stringify(wanted);
  }, expected).catch(async () => assert.deepEqual(await people(page).allTextContents(), expected));
  // The number comes with a later frame than the list.
  await page.locator("#count", { hasText: new RegExp(`^\\s*${names.length}\\s*$`) }).waitFor();
}

async function shoot(page, name) {
  if (!options.screenshots) return;
  await mkdir(options.screenshots, { recursive: true });
  await page.screenshot({ path: join(options.screenshots, `${name}.png`) });
}

const steps = {
  async "two tabs see each other"({ ada, grace }) {
    await hereAre(ada, ["Ada", "Grace"]);
    await hereAre(grace, ["Ada", "Grace"]);
    await ada.locator(".note", { hasText: "Grace joined" }).waitFor();
  },

  async "they talk, and markup stays text"({ ada, grace }) {
    await say(ada, "The water is clear today.");
    await message(grace, "The water is clear today.").waitFor();
    await say(grace, "<b>I can see</b> the ground\u{1F41F}");
    await message(ada, "<b>I can see</b> the ground\u{1F41F}").waitFor();
    assert.equal(await ada.locator(".message b").count(), 0);
    assert.equal(await ada.locator(".message.own").count(), 1);
    assert.equal(await grace.locator(".message.own").count(), 1);
    assert.equal(await grace.locator(".message:not(.own) .author").first().textContent(), "Ada");
    await shoot(ada, "two-tabs");
  },

  async "a reload shows the history and keeps the user"({ ada, grace }) {
    await grace.reload();
    await connected(grace);
    await message(grace, "The water is clear today.").waitFor();
    await message(grace, "I can see").waitFor();
    assert.equal(await grace.locator(".message").count(), 2);
    assert.equal(await grace.locator(".message.own").count(), 1, "the same user after the reload");
    await hereAre(grace, ["Ada", "Grace"]);
    await hereAre(ada, ["Ada", "Grace"]);
  },

  async "a lost connection returns by itself, with what was missed, once"({ ada, grace }) {
    await grace.evaluate(() => window.testNetwork(false));
    await grace.locator("#status:not([data-state=connected])").waitFor();
    assert.ok(await grace.getByRole("button", { name: "Send" }).isDisabled());
    await say(ada, "Said while Grace was away.");
    await grace.evaluate(() => window.testNetwork(true));
    await connected(grace);
    await message(grace, "Said while Grace was away.").waitFor();
    await say(ada, "Said after she came back.");
    await message(grace, "Said after she came back.").waitFor();
    assert.equal(await grace.locator(".message").count(), 4, "nothing twice, nothing missing");
  },

  async "rooms are apart, and their counts are live"({ ada, grace }) {
    await grace.getByLabel("Name of another room").fill(`${room} Annex`);
    await grace.getByLabel("Name of another room").press("Enter");
    await grace.locator("#room-title", { hasText: /Annex/i }).waitFor();
    await hereAre(grace, ["Grace"]);
    await say(grace, "Only in the annex.");
    await hereAre(ada, ["Ada"]);
    await ada.locator(".note", { hasText: "Grace left" }).waitFor();
    assert.equal(await message(ada, "Only in the annex.").count(), 0);
    await grace.goBack();
    await message(grace, "Said after she came back.").waitFor();
    await hereAre(ada, ["Ada", "Grace"]);
  },

  async "a new name is seen by the others"({ ada, grace }) {
    await grace.locator("#me").click();
    await grace.getByLabel("Your name").fill("Admiral Grace");
    await grace.getByRole("button", { name: "Take it" }).click();
    await hereAre(ada, ["Ada", "Admiral Grace"]);
    await connected(grace);
  },

  async "a phone shows it all"({ browser, ada }) {
    const phone = await open(browser, "Joan", {
      viewport: { width: 375, height: 667 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true,
    });
    await message(phone, "Said after she came back.").waitFor();
    await say(phone, "Hello from a small screen, with a line that is long enough to wrap more than once.");
    await message(ada, "Hello from a small screen").waitFor();
    const width = await phone.evaluate(() => Math.max(document.documentElement.scrollWidth, innerWidth));
    assert.equal(width, 375, "the page is exactly as wide as the phone");
    const send = await phone.getByRole("button", { name: "Send" }).boundingBox();
    assert.ok(send.y + send.height <= 667 && send.height >= 44, "the button is on the screen and can be touched");
    await shoot(phone, "phone");
    await phone.locator("#people-toggle").tap();
    await phone.locator("#people-panel.open").waitFor();
    await hereAre(phone, ["Ada", "Admiral Grace", "Joan"]);
    const panel = await phone.locator("#people-panel").boundingBox();
    assert.ok(panel.x >= 0 && panel.x + panel.width <= 375, "the list of people is on the screen");
    await shoot(phone, "phone-people");
    await phone.context().close();
    await ada.locator(".note", { hasText: "Joan left" }).waitFor();
  },

  async "who is online, away or offline is shown, with when they were last seen"({ ada, grace }) {
    const line = (page, list, who) => page.locator(`#${list} li`, { hasText: who });
    await line(ada, "people", "Admiral Grace").locator(".avatar[data-state=online]").waitFor();
    await line(ada, "gone", "Joan").locator(".avatar[data-state=offline]").waitFor();
    assert.equal(await line(ada, "gone", "Joan").locator(".state").textContent(), "offline, last seen just now");
    await grace.evaluate(() => window.testAway("away"));
    await line(ada, "people", "Admiral Grace").locator(".avatar[data-state=away]").waitFor();
    assert.equal(await line(ada, "people", "Admiral Grace").locator(".state").textContent(), "away");
    await shoot(ada, "presence");
    await grace.evaluate(() => window.testAway("online"));
    await line(ada, "people", "Admiral Grace").locator(".avatar[data-state=online]").waitFor();
  },

  async "a letter waits for who has closed the tab, and is there when it is opened again"({ ada, grace }) {
    const context = grace.context();
    await grace.close();
    await ada.locator("#gone li", { hasText: "Admiral Grace" }).locator(".avatar[data-state=offline]").waitFor();
    await write(ada, "Admiral Grace", "The <b>ice</b> is thin, keep to the shore.");
    await write(ada, "Admiral Grace", "And the lamps are lit.");
    const again = await openTab(context, "Grace");
    const letters = again.locator("#letters .letter");
    await letters.filter({ hasText: "And the lamps are lit." }).waitFor();
    assert.deepEqual(await letters.locator(".text").allTextContents(),
      ["The <b>ice</b> is thin, keep to the shore.", "And the lamps are lit."], "in order, once, and markup stays text");
    assert.deepEqual(await letters.locator(".waited").allTextContents(), ["while you were away", "while you were away"]);
    assert.equal(await letters.locator(".author").first().textContent(), "Ada");
    await hereAre(ada, ["Ada", "Grace"]);
    await shoot(again, "letters");
    await write(ada, "Grace", "Welcome back.");
    await letters.filter({ hasText: "Welcome back." }).waitFor();
    assert.equal(await letters.filter({ hasText: "Welcome back." }).locator(".waited").count(), 0, "this one came live");
    await again.getByRole("button", { name: "Put away" }).click();
    assert.ok(await again.locator("#letters").isHidden());
    // What was shown is acknowledged.
    await again.reload();
    await connected(again);
    await write(ada, "Grace", "One more.");
    await letters.filter({ hasText: "One more." }).waitFor();
    assert.equal(await letters.count(), 1, "nothing comes twice");
  },
};

/** Sends a letter to somebody in the list of people, or of those who left. */
async function write(page, name, text) {
  await page.getByRole("button", { name: `Write to ${name}` }).click();
  await page.getByLabel("Letter", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send letter" }).click();
  await page.locator("#letter").waitFor({ state: "hidden" });
}

/** Lets a test break the page's connection, and keep it broken, as a network would, without touching the server. */
function breakableNetwork() {
  const sockets = new Set();
  let up = true;
  let last = null;
  const Real = window.WebSocket;
  window.WebSocket = class extends Real {
    constructor(...given) {
      super(...given);
      sockets.add(this);
      last = this;
      this.addEventListener("open", () => setTimeout(() => up || this.close()));
    }
  };
  // The page has no button for it; its client ignores the reply.
  window.testAway = (state) => last.send(JSON.stringify({ id: 4_000_000, rpc: { method: "presence.set", data: { state } } }));
  window.testNetwork = (now) => {
    up = now;
    if (!up) sockets.forEach((socket) => socket.close());
  };
}

const browser = await chromium.launch({
  executablePath: options.chromium,
  headless: !options.show,
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
let failed = false;
try {
  const ada = await open(browser, "Ada");
  const grace = await open(browser, "Grace");
  for (const [name, step] of Object.entries(steps)) {
    const started = Date.now();
    await step({ browser, ada, grace });
    console.log(`ok    ${name} (${Date.now() - started} ms)`);
  }
  assert.deepEqual(complaints, [], "the pages complained");
} catch (error) {
  failed = true;
  console.error(`FAILED ${error.stack}`);
  if (complaints.length) console.error(`the pages complained:\n${complaints.join("\n")}`);
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
