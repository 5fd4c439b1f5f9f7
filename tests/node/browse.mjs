// Drives a real browser over the dashboard, and says what came of it: node browse.mjs SCENARIO, with JSON on standard input.
// What a page asks for elsewhere, says on its console, or opens as a dialog is told too: see tests/browser.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const input = JSON.parse(await new Response(process.stdin).text());
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({
  executablePath: input.browser,
  args: [...args, "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
});
const told = { elsewhere: [], said: [], dialogs: [], steps: {} };
const limit = 20_000;
let opened = null; // the page that was opened last
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = (opened = await context.newPage());
  page.setDefaultTimeout(limit);
  const origin = new URL(input.url).origin;
  const ours = url => ["http:", "https:"].includes(new URL(url).protocol) && new URL(url).origin === origin;
  context.on("request", request => { // of each of its pages, windows and workers
    if (!ours(request.url())) told.elsewhere.push(request.url());
  });
  page.on("websocket", socket => told.elsewhere.push(socket.url()));
  page.on("console", message => {
    if (["error", "warning"].includes(message.type())) told.said.push(message.text());
  });
  page.on("pageerror", error => told.said.push(String(error)));
  page.on("dialog", async dialog => {
    told.dialogs.push(dialog.message());
    await dialog.dismiss();
  });
  return page;
}

async function signIn(page) {
  await page.goto(`${input.url}/`);
  if (input.token) {
    await page.getByLabel("Token").fill(input.token);
    await page.getByRole("button", { name: "Sign in" }).click();
  }
  await page.getByRole("heading", { name: "Now" }).waitFor();
}

const picture = async (page, name) => {
  if (!input.pictures) return;
  mkdirSync(input.pictures, { recursive: true });
  await page.screenshot({ path: `${input.pictures}/${name}.png`, fullPage: true });
};

const rows = page => page.locator("tbody tr").count();
// How many rows a page has once it has so many, or in the end.
const rowsOf = async (page, count) => {
  const there = wanted => document.querySelectorAll("tbody tr").length === wanted;
  await page.waitForFunction(there, count, { timeout: limit }).catch(() => null);
  return rows(page);
};

const looks = { light: {}, dark: { colorScheme: "dark" }, narrow: { viewport: { width: 360, height: 740 } } };

// What of a page nobody sees without moving it sideways.
const beyond = page =>
  page.evaluate(() => {
    const over = document.documentElement.scrollWidth - innerWidth;
    const links = [...document.querySelectorAll(".top a, .top button:not([hidden])")];
    const out = links.filter(one => one.getBoundingClientRect().right > innerWidth + 0.5);
    return [...(over > 0 ? [`${over} px too wide`] : []), ...out.map(one => `${one.innerText} is out of sight`)];
  });

// What a checker of accessibility finds. It comes not as an element of the page, which would not be let in.
async function checked(page, path) {
  await page.evaluate(axe);
  for (const { id, nodes } of await page.evaluate(async () => (await globalThis.axe.run()).violations))
    told.said.push(`${path}: ${id}: ${nodes.map(one => one.html.slice(0, 200)).join(" ")}`);
}

const scenarios = {
  // As somebody would: sign in, find the callback, see it become delivered without loading the page again, sign out.
  async follow() {
    const page = await open();
    await page.goto(`${input.url}/dashboard/callbacks`);
    await page.getByLabel("Token").fill("wrong");
    await page.keyboard.press("Enter");
    told.steps.refused = await page.getByRole("alert").innerText();
    await page.getByLabel("Token").fill(input.token);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Callbacks" }).waitFor();
    told.steps.here = new URL(page.url()).pathname;
    await page.getByRole("searchbox", { name: "Search" }).fill(input.task);
    await page.keyboard.press("Enter");
    await page.waitForURL(/q=/);
    told.steps.found = await rowsOf(page, 1);
    await page.locator("tbody tr a").first().click();
    await page.getByRole("heading", { name: "Next poll" }).waitFor();
    told.steps.waiting = await page.locator(".line h3").allInnerTexts();
    await fetch(input.go, { method: "PUT" });
    await page.getByRole("heading", { name: /^Attempt ([2-9]|\d\d+)$/ }).waitFor();
    told.steps.before = await page.locator(".line h3").allInnerTexts();
    await fetch(input.go, { method: "PUT" });
    await page.getByText("Nothing more: it was delivered").waitFor();
    told.steps.after = await page.locator(".line h3").allInnerTexts();
    told.steps.loads = await page.evaluate(() => performance.getEntriesByType("navigation").length);
    await picture(page, "callback");
    await page.getByRole("button", { name: "Live · pause" }).click();
    told.steps.paused = await page.getByRole("button", { name: "Paused · go on" }).getAttribute("aria-pressed");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Token").waitFor();
    await page.goto(`${input.url}/dashboard/tasks`);
    told.steps.out = new URL(page.url()).pathname;
  },

  // What somebody is about to press stays in focus when another button comes before it, and what is selected stays there.
  async hold() {
    const page = await open();
    await page.addInitScript(() => {
      globalThis.came = 0;
      const Own = EventSource;
      globalThis.EventSource = class extends Own {
        constructor(url) {
          super(url);
          this.addEventListener("fresh", () => globalThis.came++);
        }
      };
    });
    await signIn(page);
    await page.goto(`${input.url}/dashboard/callbacks/${input.callback}`);
    await page.getByRole("heading", { name: "Next poll" }).waitFor();
    await page.getByRole("button", { name: "Cancel" }).focus();
    await fetch(input.go, { method: "PUT" });
    await page.getByRole("button", { name: "Redeliver" }).waitFor();
    told.steps.focused = await page.evaluate(() => document.activeElement.innerText);
    const before = await page.evaluate(() => {
      getSelection().selectAllChildren(document.querySelector(".line"));
      return { came: globalThis.came, selected: getSelection().toString() };
    });
    await fetch(input.go, { method: "PUT" });
    await page.waitForFunction(({ came }) => globalThis.came > came, before);
    told.steps.kept = (await page.evaluate(() => getSelection().toString())) === before.selected;
    told.steps.held = await page.locator("#pause").innerText();
    told.steps.why = await page.locator("#pause").getAttribute("title");
    await page.evaluate(() => getSelection().removeAllRanges());
    await page.getByText("Nothing more: it was delivered").waitFor();
    told.steps.then = await page.locator("#pause").innerText();
    told.steps.why += await page.locator("#pause").getAttribute("title");
  },

  // A page that cannot be followed says so, and is followed as soon as it can be.
  async again() {
    const page = await open();
    await signIn(page);
    await page.getByText("Live · pause").waitFor();
    await fetch(input.go, { method: "PUT" });
    await page.reload();
    await page.getByText("Not live").waitFor();
    await page.evaluate(() => { window.stayed = true; });
    await fetch(input.go, { method: "PUT" });
    await page.getByText("Live · pause").waitFor();
    told.steps.stayed = await page.evaluate(() => window.stayed);
  },

  // More pages in front than a browser has connections to one server.
  async many() {
    const pages = [await open()];
    await signIn(pages[0]);
    const live = () => Promise.all(pages.map(page => page.getByText("Live · pause").count()));
    const sum = counts => counts.reduce((one, other) => one + other, 0);
    for (let left = 7; left; left--) {
      pages.push(await pages[0].context().newPage());
      await pages.at(-1).goto(`${input.url}/dashboard/callbacks`, { timeout: limit });
      await pages.at(-1).getByRole("button", { name: /^(Live · pause|Not live)$/ }).waitFor();
    }
    told.steps.live = sum(await live());
    await pages.shift().close();
    const until = Date.now() + limit;
    do told.steps.then = sum(await live()); while (told.steps.then < 4 && Date.now() < until);
  },

  // Filters take hold without a click on the button, and every page has what the one before has not.
  async lists() {
    const page = await open();
    await signIn(page);
    await page.getByRole("link", { name: "Callbacks", exact: true }).click();
    const seen = [];
    let slowest = 0;
    for (let pages = 1; ; pages++) {
      seen.push(...(await page.locator("tbody tr td:first-child a").evaluateAll(links => links.map(one => one.href))));
      const took = await page.evaluate(() => performance.getEntriesByType("navigation")[0].duration);
      slowest = Math.max(slowest, took);
      if (pages === input.pages) break;
      const before = page.url();
      await page.getByRole("link", { name: "Older" }).click();
      await page.waitForURL(({ href }) => href !== before); // and until it is whole: the one before was
    }
    told.steps.seen = seen;
    told.steps.slowest_ms = slowest;
    await page.getByRole("link", { name: "Newest" }).click();
    await page.getByLabel("State").selectOption("cancelled");
    await page.waitForURL(/state=cancelled/);
    told.steps.cancelled = await rowsOf(page, 1);
    await page.goBack();
    told.steps.back = await rowsOf(page, 50);
    // The newest is there at once; for the oldest the search goes further back, without a click.
    for (const [name, number] of [["first", 9990], ["last", 3]]) {
      await page.getByRole("searchbox").fill(`orderId=${number}`);
      await page.keyboard.press("Enter");
      await page.waitForURL(new RegExp(`orderId%3D${number}`));
      const row = page.locator("tbody td.full:first-of-type, tbody td:nth-child(3)");
      await row.first().waitFor();
      await rowsOf(page, 1);
      told.steps[name] = await row.allInnerTexts();
    }
  },

  // Redeliver a dead one, then all others; pause the receiver of a new one, and resume it.
  async operate() {
    const page = await open();
    await signIn(page);
    const last = page.locator(".line li:last-child h3");
    const ends = async text => {
      await last.filter({ hasText: text }).waitFor();
      return last.innerText();
    };
    await page.goto(`${input.url}/dashboard/callbacks/${input.dead}`);
    await page.getByRole("button", { name: "Redeliver" }).click();
    await page.getByRole("status").waitFor();
    told.steps.told = await page.locator(".notice").innerText();
    told.steps.one = await ends("it was delivered");
    await page.reload();
    told.steps.again = [await ends("it was delivered"), await page.locator(".notice").count(), new URL(page.url()).search];
    await page.getByRole("link", { name: "Callbacks", exact: true }).click();
    await page.getByRole("link", { name: "Redeliver the dead …" }).click();
    told.steps.counted = await page.getByText(/died then\.$/).innerText();
    await page.getByRole("button", { name: "Redeliver these 2" }).click();
    told.steps.all = await page.getByRole("status").innerText();
    await page.getByRole("link", { name: "Receivers" }).click();
    await page.getByRole("button", { name: /^Pause http/ }).click();
    told.steps.paused = await page.getByRole("status").innerText();
    const made = await fetch(`${input.url}/v1/callbacks`, {
      method: "POST",
      headers: { authorization: `Bearer ${input.token}`, "content-type": "application/json" },
      body: JSON.stringify({ taskId: "sim-success-0-later", callbackUrl: input.register }),
    });
    await page.goto(`${input.url}/dashboard/callbacks/${(await made.json()).id}`);
    told.steps.waits = await ends("waits for its receiver");
    await page.getByRole("button", { name: /^Resume http/ }).click();
    told.steps.resumed = await ends("it was delivered");
  },

  // Some pages as files, small ones: what the manual shows.
  async pictures() {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open({ colorScheme, viewport: { width: 1080, height: 800 } });
      await signIn(page);
      for (const [name, path] of Object.entries(input.pages)) {
        await page.goto(input.url + path);
        const height = await page.evaluate(() => document.querySelector("main").scrollHeight + 60);
        const clip = { x: 0, y: 0, width: 1080, height: Math.min(height, 940) };
        const png = (await page.screenshot({ clip, fullPage: true })).toString("base64");
        const blank = await page.context().newPage();
        const webp = await blank.evaluate(async data => {
          const image = new Image();
          image.src = `data:image/png;base64,${data}`;
          await image.decode();
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.width, image.height];
          canvas.getContext("2d").drawImage(image, 0, 0);
          return canvas.toDataURL("image/webp", 0.7).split(",")[1];
        }, png);
        await blank.close();
        writeFileSync(`${input.folder}/dashboard-${name}-${colorScheme}.webp`, Buffer.from(webp, "base64"));
      }
    }
  },

  // Every page, with what others wrote on it, in one look: light, dark, or as a telephone has it.
  async visit() {
    const page = await open(looks[input.look]);
    await signIn(page);
    for (const [at, path] of input.paths.entries()) {
      await page.goto(input.url + path);
      told.said.push(...(await beyond(page)).map(what => `${path}: ${what}`));
      told.steps[path] = await page.evaluate(() => {
        for (const summary of document.querySelectorAll("details summary")) summary.click();
        const foreign = "script, img, svg:not(.curve > svg), iframe, b, marquee, form[action^='http:']";
        return {
          links: [...document.links].map(one => one.href).filter(one => !one.startsWith("http")),
          markup: document.querySelectorAll(`main :is(${foreign})`).length,
          alerted: globalThis.alerted ?? null,
        };
      });
      await picture(page, `${input.look}-${at}`);
      if (input.look !== "narrow") await checked(page, path); // it has the same elements
    }
  },

  // Pages before somebody is signed in, the form as few see it, and pages behind it; an error's page is one as well.
  async tour() {
    const page = await open(looks[input.look]);
    const seen = (told.steps.seen = []);
    const look = async (name, status = 200) => {
      if (status >= 400) told.said = told.said.filter(text => !text.includes(`status of ${status}`));
      told.said.push(...(await beyond(page)).map(what => `${name}: ${what}`));
      await page.evaluate(() => document.querySelectorAll("main summary").forEach(one => one.click()));
      await picture(page, `tour-${input.look}-${name.replace(/\W+/g, "-")}`);
      await checked(page, name);
      seen.push(name);
    };
    const all = async paths => {
      for (const path of paths) await look(path, (await page.goto(input.url + path)).status());
    };
    if (input.before.length) {
      await all(input.before);
      await page.goto("about:blank");
      await page.setContent(`<a href="${input.url}/dashboard/sign-in?again=1">From another site</a>`);
      await page.getByRole("link").click();
      await page.getByRole("link", { name: "Go on" }).waitFor();
      await look("a link of another site");
      await page.getByRole("link", { name: "Go on" }).click();
      await page.getByLabel("Token").fill("wrong");
      await page.keyboard.press("Enter");
      await page.getByRole("alert").waitFor();
      await look("a wrong token", 401);
    }
    await signIn(page);
    await all(input.paths);
  },

  // The manual by keyboard alone: search from the first page, a further word without a load, and on to what was found.
  async manual() {
    const page = await open();
    await page.goto(`${input.url}/manual`);
    await page.getByRole("heading", { name: "The manual", level: 1 }).waitFor();
    const focused = () => page.evaluate(() => document.activeElement.getAttribute("type") ?? document.activeElement.tagName);
    for (let at = 0; at < 30 && (await focused()) !== "search"; at++) await page.keyboard.press("Tab");
    await page.keyboard.type("disk");
    await page.keyboard.press("Enter");
    await page.waitForURL(/manual\/search\?q=disk/);
    told.steps.first = await page.getByRole("status").innerText();
    for (let at = 0; at < 30 && (await focused()) !== "search"; at++) await page.keyboard.press("Tab");
    await page.keyboard.press("End");
    await page.keyboard.type(" full");
    await page.waitForFunction(before => document.getElementById("count").innerText !== before, told.steps.first);
    told.steps.then = await page.getByRole("status").innerText();
    told.steps.url = page.url();
    told.steps.loads = await page.evaluate(() => performance.getEntriesByType("navigation").length);
    told.steps.marked = (await page.locator("#found mark").allInnerTexts()).map(one => one.toLowerCase());
    told.steps.titles = await page.locator("#found h2").allInnerTexts();
    for (let at = 0; at < 30; at++) {
      await page.keyboard.press("Tab");
      if (await page.evaluate(() => document.activeElement.closest("#found") !== null)) break;
    }
    await page.keyboard.press("Enter");
    await page.waitForURL(/#/);
    told.steps.target = await page.evaluate(() => document.querySelector(":target").innerText);
  },

  // Its pages in one look: nothing too wide, no link of the head out of sight, and nothing for a checker to find.
  async read() {
    const page = await open(looks[input.look]);
    for (const path of input.paths) {
      await page.goto(input.url + path);
      told.said.push(...(await beyond(page)).map(what => `${path}: ${what}`));
      const blank = await page.locator("img").evaluateAll(all => all.filter(one => !one.naturalWidth).map(one => one.src));
      told.said.push(...blank.map(one => `${path}: ${one} is not shown`));
      await picture(page, `manual-${input.look}-${path.replace(/\W+/g, "-")}`);
      if (input.look !== "narrow") await checked(page, path); // it has the same elements
    }
  },
};

try {
  await scenarios[process.argv[2]]();
} catch (error) {
  told.failed = `${error.stack ?? error}\n${opened?.url()}\n${await opened?.locator("body").innerText().catch(String)}`;
}
await browser.close();
console.log(JSON.stringify(told));
