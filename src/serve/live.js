// Follows a run: shows the parts that the server sends, and sends what a button asks for.
"use strict";

(() => {
  const live = document.getElementById("live");
  if (!live) return;
  const answer = document.getElementById("answer");

  // Replaces a part. Focus, open lists, and the places of logs stay.
  const replace = (part, html) => {
    const focus = part.contains(document.activeElement) ? document.activeElement : null;
    const focusAt = focus && !focus.id ? [...part.querySelectorAll(focus.tagName)].indexOf(focus) : -1;
    const open = new Set([...part.querySelectorAll("details[open]")].map((one) => one.id));
    const places = new Map([...part.querySelectorAll("pre.log")].map((log) => [log.getAttribute("aria-label"), { top: log.scrollTop, atEnd: log.scrollTop + log.clientHeight >= log.scrollHeight - 4 }]));
    part.innerHTML = html;
    for (const one of part.querySelectorAll("details")) one.open = open.has(one.id);
    for (const log of part.querySelectorAll("pre.log")) {
      const place = places.get(log.getAttribute("aria-label"));
      log.scrollTop = !place || place.atEnd ? log.scrollHeight : place.top;
    }
    if (typeof makeReadable === "function") part.querySelectorAll("svg.plot").forEach(makeReadable);
    if (focus) {
      const again = focus.id ? document.getElementById(focus.id) : part.querySelectorAll(focus.tagName)[focusAt];
      again?.focus({ preventScroll: true });
    }
  };

  const shown = new Map();
  const show = (parts) => {
    for (const [name, html] of Object.entries(parts)) {
      const part = live.querySelector(`[data-part="${name}"]`);
      if (!part || shown.get(name) === html) continue;
      shown.set(name, html);
      replace(part, html);
    }
  };
  for (const log of live.querySelectorAll("pre.log")) log.scrollTop = log.scrollHeight;

  // A browser opens few connections to one server, so a page that is not visible closes its own.
  let source = null;
  let ended = !live.dataset.events;
  const connect = () => {
    if (ended || document.hidden || source) return;
    source = new EventSource(live.dataset.events);
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.addEventListener("end", () => {
      ended = true;
      disconnect();
    });
    source.onerror = () => {
      // The browser connects again, except after an answer that is not a stream of events: the server was started again.
      if (source?.readyState !== EventSource.CLOSED) return;
      disconnect();
      setTimeout(connect, 3000);
    };
  };
  const disconnect = () => {
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", connect);
  connect();

  live.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-post]");
    if (!button || button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    try {
      const response = await fetch(button.dataset.post, { method: "POST", headers: { "X-CSRF-Token": live.dataset.csrf } });
      const started = response.headers.get("location");
      if (response.ok && started) {
        location.assign(started);
        return;
      }
      const isPage = (response.headers.get("content-type") ?? "").startsWith("text/html");
      answer.textContent = isPage ? "The server refused it: reload the page." : await response.text();
    } catch {
      answer.textContent = "The server does not answer.";
    }
    button.removeAttribute("aria-disabled");
  });
})();
