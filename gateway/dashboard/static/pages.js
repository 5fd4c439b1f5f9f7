// What pages do beyond links and forms: they follow what happens, and their times go on. Loaded as a file: nothing that a
// page shows can bring a script of its own.
"use strict";
(() => {
  const pause = document.getElementById("pause");
  const root = document.body.dataset.root;
  let stream = null;
  let again = 0;
  let turn = 0;
  let leave = null; // gives this page's place among those that are followed to another
  let paused = sessionStorage.getItem("paused") === "yes";

  // What was done a page tells once: its address, which is loaded again or kept, does not go on saying so.
  const address = new URL(location.href);
  let done = address.searchParams.get("done");
  if (done !== null) {
    address.searchParams.delete("done");
    history.replaceState(history.state, "", address);
  }

  // The words of a span of time, as the server writes them.
  const span = seconds => {
    if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds);
    const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
    const at = units.findIndex(([size]) => whole >= size);
    const [size, unit] = units[at];
    const [next, nextUnit] = units[at + 1] || [1, ""];
    const rest = Math.floor((whole % size) / next);
    return `${Math.floor(whole / size)} ${unit}` + (rest && nextUnit ? ` ${rest} ${nextUnit}` : "");
  };
  const relative = apart => {
    if (Math.abs(apart) < 0.5) return "now";
    // Whole seconds: a text that changes ten times a second tells nobody more.
    const words = Math.abs(apart) < 9.95 ? `${Math.round(Math.abs(apart))} s` : span(Math.abs(apart));
    return apart > 0 ? `in ${words}` : `${words} ago`;
  };
  // By how much this machine's clock is ahead of the gateway's.
  const ahead = Date.now() - Number(document.body.dataset.now || Date.now());
  const tell = () => {
    for (const time of document.querySelectorAll("time[data-relative]")) {
      const told = relative((Date.parse(time.dateTime) - Date.now() + ahead) / 1000);
      const words = told.endsWith("ago") ? time.dataset.relative + told : told;
      if (time.textContent !== words) time.textContent = words;
    }
  };

  const show = state => {
    pause.hidden = !document.querySelector("[data-live]");
    pause.setAttribute("aria-pressed", String(paused));
    const words = { live: "Live · pause", held: "Held: text is selected", paused: "Paused · go on", lost: "Not live" };
    pause.textContent = words[state];
    pause.title = state === "held" ? "There is news: it is shown once no text is selected" : "";
    pause.dataset.state = state;
  };
  // What came while somebody selects a text to copy waits for the end of that.
  let held = null;
  const selects = region => {
    const selection = getSelection();
    return selection !== null && !selection.isCollapsed && region.contains(selection.anchorNode);
  };
  const fresh = event => {
    if (event.target !== stream) return; // it was closed meanwhile
    const region = document.querySelector("[data-live]");
    if (!region) return;
    held = selects(region) ? event : null;
    show(held !== null ? "held" : stream.readyState === EventSource.OPEN ? "live" : "lost");
    if (held !== null) return;
    const open = [...region.querySelectorAll("details")].map(one => one.open);
    const focused = region.contains(document.activeElement) ? name(document.activeElement) : null;
    region.innerHTML = event.data;
    [...region.querySelectorAll("details")].forEach((one, at) => { one.open = Boolean(open[at]); });
    if (focused !== null) focusable(region).find(one => name(one) === focused)?.focus({ preventScroll: true });
    tell();
  };
  document.addEventListener("selectionchange", () => {
    if (held !== null) fresh(held);
  });
  const focusable = region => [...region.querySelectorAll("a, button, summary, [tabindex]")];
  // What one is known by: never its place. Where one was that cancels there may now be one that redelivers.
  const name = one => {
    const row = one.closest("tr, li")?.querySelector("a, h3")?.innerText;
    return [row, one.tagName, one.getAttribute("aria-label") ?? one.innerText].join(" ");
  };

  // A browser has six connections to a server, and each page that is followed keeps one: they are so few that another
  // page can still be loaded. Without locks, as by plain http from elsewhere, nobody counts.
  const PLACES = ["live-1", "live-2", "live-3", "live-4"];
  const enter = async () => {
    if (!navigator.locks) return () => {};
    for (const name of PLACES) {
      const found = await new Promise(told => {
        const hold = lock => lock && new Promise(done => told(done));
        navigator.locks.request(name, { ifAvailable: true }, hold).then(() => told(null), () => told(null));
      });
      if (found) return found;
    }
    return null;
  };

  const close = () => {
    turn++;
    clearTimeout(again);
    if (leave) leave();
    leave = null;
    if (stream) stream.close();
    stream = held = null;
  };
  const follow = async () => {
    close();
    if (!document.querySelector("[data-live]")) { pause.hidden = true; return; }
    if (paused) { show("paused"); return; }
    if (document.hidden) return; // nobody looks, and it costs nothing
    const mine = turn;
    const entered = await enter();
    if (mine !== turn) { entered?.(); return; } // closed, or followed anew, meanwhile
    if (!entered) { show("lost"); again = setTimeout(follow, 5000); return; }
    leave = entered;
    const query = new URLSearchParams(location.search);
    if (done !== null) query.set("done", done);
    const page = (location.pathname.slice(root.length) || "/") + (query.size ? `?${query}` : "");
    stream = new EventSource(`${document.body.dataset.liveUrl}?page=${encodeURIComponent(page)}`);
    stream.addEventListener("open", () => show("live"));
    stream.addEventListener("fresh", fresh);
    stream.addEventListener("trouble", () => show("lost"));
    stream.addEventListener("gone", () => { close(); show("lost"); location.reload(); });
    stream.addEventListener("error", ({ target }) => {
      show("lost");
      // After an answer that is none, as while the gateway starts, a browser does not ask again by itself.
      if (target === stream && target.readyState === EventSource.CLOSED) again = setTimeout(follow, 5000);
    });
  };

  pause.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("paused", paused ? "yes" : "no");
    follow();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : follow()));
  document.addEventListener("htmx:afterSettle", () => { done = null; tell(); follow(); });
  addEventListener("pagehide", close);
  addEventListener("pageshow", follow);
  setInterval(tell, 1000);
})();
