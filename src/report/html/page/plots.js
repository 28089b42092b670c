// Shows the values of a plot's lines at the pointer, or at a cursor that the arrow keys move.

function shortNumber(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function makeReadable(svg) {
  const [x0, x1, px0, px1, y0, y1, py0, py1] = svg.dataset.map.split(" ").map(Number);
  const percent = svg.dataset.percent !== undefined;
  const lines = [...svg.querySelectorAll("polyline.line")].map((line) => ({
    name: line.dataset.name,
    style: line.getAttribute("class"),
    level: line.classList.contains("level"),
    points: line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number)),
  }));
  const tickLabels = [...svg.querySelectorAll("text")].filter((text) => Number(text.getAttribute("y")) > py0);
  const swept = lines.filter((line) => !line.level);
  const positions = [...new Set(swept.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  if (positions.length === 0) return;
  const value = (pixel, from, to, low, high) => low + ((pixel - from) / (to - from)) * (high - low);
  const marked = svg.querySelector("circle.mark") !== null;
  const cursor = svgElement("line", { class: "cursor", y1: py1, y2: py0, visibility: "hidden" });
  svg.append(cursor);
  const readout = element("p", { class: "readout", role: "status" });
  svg.after(readout);
  let shown = -1;

  // The label of the tick below a marked point, else the number.
  const xLabel = (pixel) => {
    if (marked) {
      const near = tickLabels
        .map((label) => [Math.abs(Number(label.getAttribute("x")) - pixel), label.textContent.trim()])
        .sort((one, other) => one[0] - other[0])[0];
      if (near) return near[1];
    }
    return shortNumber(value(pixel, px0, px1, x0, x1));
  };
  const show = (index) => {
    shown = Math.max(0, Math.min(positions.length - 1, index));
    const at = positions[shown];
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", "visible");
    const reach = marked ? (px1 - px0) / Math.max(8, 3 * tickLabels.length) : (px1 - px0) / 60;
    const texts = [];
    for (const line of lines) {
      const near = line.level ? line.points[0] : line.points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
      if (!line.level && Math.abs(near[0] - at) > reach) continue;
      const y = value(near[1], py0, py1, y0, y1);
      texts.push(`${line.name}: ${percent ? (100 * y).toFixed(1) : shortNumber(y)}`);
    }
    readout.textContent = `${svg.dataset.x} ${xLabel(at)} — ${texts.join("; ")}`;
  };
  const hide = () => {
    cursor.setAttribute("visibility", "hidden");
    readout.textContent = "";
    shown = -1;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const view = svg.viewBox.baseVal;
    const pixel = ((event.clientX - box.left) / box.width) * view.width;
    let best = 0;
    positions.forEach((position, index) => {
      if (Math.abs(position - pixel) < Math.abs(positions[best] - pixel)) best = index;
    });
    if (best !== shown) show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = Math.max(1, Math.round(positions.length / 60));
    const target = {
      ArrowRight: shown + (shown < 0 ? 1 : step),
      ArrowLeft: shown < 0 ? positions.length - 1 : shown - step,
      Home: 0,
      End: positions.length - 1,
    }[event.key];
    if (event.key === "Escape") hide();
    if (target === undefined) return;
    event.preventDefault();
    show(target);
  });
}

function setUpPlots() {
  document.querySelectorAll("svg.plot[data-map]").forEach(makeReadable);
}
