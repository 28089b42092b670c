// Zooms and moves the graph, and shows a stage in a dialog.

const LARGEST_ZOOM = 8;

function makeZoomable(view) {
  const svg = view.querySelector("svg.graph");
  const full = svg.viewBox.baseVal;
  const size = { width: full.width, height: full.height };
  let zoom = 1;
  let center = { x: size.width / 2, y: size.height / 2 };

  const apply = () => {
    zoom = Math.max(1, Math.min(LARGEST_ZOOM, zoom));
    const width = size.width / zoom;
    const height = size.height / zoom;
    const clamp = (value, half, all) => Math.max(half, Math.min(all - half, value));
    center = { x: clamp(center.x, width / 2, size.width), y: clamp(center.y, height / 2, size.height) };
    svg.setAttribute("viewBox", `${center.x - width / 2} ${center.y - height / 2} ${width} ${height}`);
    svg.classList.toggle("zoomed", zoom > 1);
    level.textContent = `${Math.round(100 * zoom)} %`;
  };
  const zoomBy = (factor) => {
    zoom *= factor;
    apply();
  };
  const move = (x, y) => {
    center = { x: center.x + (x * size.width) / zoom / 8, y: center.y + (y * size.height) / zoom / 8 };
    apply();
  };
  const fit = () => {
    zoom = 1;
    apply();
  };
  const button = (name, label, action) => {
    const made = element("button", { type: "button", "aria-label": label, title: label }, name);
    made.addEventListener("click", action);
    return made;
  };
  const level = element("output", { "aria-live": "polite" });
  view.before(
    element(
      "div",
      { class: "toolbar", role: "group", "aria-label": "zoom of the graph" },
      button("+", "zoom in", () => zoomBy(1.4)),
      button("−", "zoom out", () => zoomBy(1 / 1.4)),
      button("fit", "show the whole graph", fit),
      level,
    ),
  );
  view.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "+" || event.key === "=") zoomBy(1.4);
    else if (event.key === "-") zoomBy(1 / 1.4);
    else if (event.key === "0") fit();
    else if (arrows && zoom > 1) move(...arrows);
    else return;
    event.preventDefault();
  });
  view.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    },
    { passive: false },
  );
  let from = null;
  svg.addEventListener("pointerdown", (event) => {
    if (zoom > 1) from = { x: event.clientX, y: event.clientY, moved: false };
  });
  svg.addEventListener("pointermove", (event) => {
    if (!from || event.buttons === 0) return;
    const scale = size.width / zoom / svg.getBoundingClientRect().width;
    const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
    if (Math.hypot(dx, dy) < 4 && !from.moved) return;
    center = { x: center.x - dx * scale, y: center.y - dy * scale };
    from = { x: event.clientX, y: event.clientY, moved: true };
    apply();
  });
  // The end of a movement is not a click on a stage.
  svg.addEventListener(
    "click",
    (event) => {
      if (from?.moved) {
        event.preventDefault();
        event.stopPropagation();
      }
      from = null;
    },
    true,
  );
  apply();
}

function showStage(link) {
  const details = document.getElementById(link.getAttribute("href").slice(1));
  if (!details) return false;
  const close = element("button", { type: "button", class: "close" }, "Close");
  const body = details.querySelector(".stage").cloneNode(true);
  const title = element("h3", { id: "stage-title" }, details.querySelector("summary b").textContent);
  const dialog = element("dialog", { "aria-labelledby": "stage-title" }, element("header", {}, title, close), body);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    link.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return true;
}

function setUpGraph() {
  document.querySelectorAll(".graph-view").forEach(makeZoomable);
  document.querySelectorAll("svg.graph a").forEach((link) => {
    link.addEventListener("click", (event) => {
      if (showStage(link)) event.preventDefault();
    });
  });
}
