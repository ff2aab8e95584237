"use strict";
(() => {
  const data = JSON.parse(document.getElementById("cells").textContent);
  const canvas = document.getElementById("map"), tip = document.getElementById("tip");
  const pen = canvas.getContext("2d"), n = data.x.length;
  const shapes = {
    circle: null,
    square: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    triangle: [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]],
    diamond: [[0, -1.3], [1.2, 0], [0, 1.3], [-1.2, 0]],
    down: [[0, 1.2], [1.1, -0.8], [-1.1, -0.8]],
  };
  let size = 0, only = -1, held = -1, mode = "type";
  const sizes = new Map();
  data.broad.forEach(name => sizes.set(name, (sizes.get(name) || 0) + 1));
  const classes = [...sizes.keys()].filter(name => name !== "unknown").sort((a, b) => sizes.get(b) - sizes.get(a));
  // Beyond the palette colours come again: then shapes tell them apart.
  const names = Object.keys(shapes);
  const looks = new Map(classes.map((name, k) => [name, [data.palette[k % data.palette.length], names[Math.floor(k / data.palette.length) % names.length]]]));
  const look = i => {  // colour and shape of a cell; no colour is that of the soft text
    const type = data.types[data.type[i]];
    if (mode === "score") return [ramp(data.score[i]), type.shape];
    if (mode === "broad") return looks.get(data.broad[i]) || ["", "circle"];
    return [type.colour, type.shape];
  };
  const place = i => [18 + data.x[i] / 1000 * (size - 36), 18 + (1 - data.y[i] / 1000) * (size - 36)];
  const ramp = score => {  // viridis, by seven of its colours
    const stops = [[68, 1, 84], [70, 50, 127], [54, 92, 141], [39, 127, 142], [31, 161, 135], [74, 194, 109], [253, 231, 37]];
    const at = Math.min(Math.max(score / 100, 0), 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    return `rgb(${stops[low].map((v, k) => Math.round(v + (stops[low + 1][k] - v) * (at - low))).join(",")})`;
  };
  const mark = (x, y, shape, r) => {
    pen.beginPath();
    if (shapes[shape]) {
      shapes[shape].forEach(([u, v], k) => pen[k ? "lineTo" : "moveTo"](x + u * r, y + v * r));
      pen.closePath();
    } else pen.arc(x, y, r, 0, 7);
  };
  function draw() {
    const style = getComputedStyle(document.documentElement), scale = window.devicePixelRatio || 1;
    size = canvas.clientWidth;
    canvas.width = canvas.height = Math.round(size * scale);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, size, size);
    const r = n > 3000 ? 1.9 : n > 800 ? 2.5 : 3.4;
    for (let i = 0; i < n; i++) {
      const [colour, shape] = look(i), [x, y] = place(i);
      pen.globalAlpha = only < 0 || data.type[i] === only ? 0.8 : 0.08;
      pen.fillStyle = colour || style.getPropertyValue("--soft");
      mark(x, y, shape, r);
      pen.fill();
    }
    pen.globalAlpha = 1;
    pen.font = "700 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.lineWidth = 3;
    pen.strokeStyle = style.getPropertyValue("--bg");
    pen.fillStyle = style.getPropertyValue("--fg");
    data.types.forEach((type, k) => {
      if (type.at < 0 || (only >= 0 && only !== k)) return;
      const [x, y] = place(type.at);
      pen.strokeText(String(k + 1), x, y + 4);
      pen.fillText(String(k + 1), x, y + 4);
    });
    if (held >= 0) {
      const [x, y] = place(held);
      pen.lineWidth = 2;
      pen.strokeStyle = style.getPropertyValue("--fg");
      pen.beginPath();
      pen.arc(x, y, 7, 0, 7);
      pen.stroke();
    }
  }
  function point(event) {
    const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    let best = -1, near = 144;
    for (let i = 0; i < n; i++) {
      if (only >= 0 && data.type[i] !== only) continue;
      const [x, y] = place(i), d = (x - px) ** 2 + (y - py) ** 2;
      if (d < near) { near = d; best = i; }
    }
    if (best !== held) { held = best; draw(); }
    tip.hidden = best < 0;
    if (best < 0) return;
    const lines = [data.cell[best], `${data.types[data.type[best]].label}, score ${(data.score[best] / 100).toFixed(2)}`];
    if (data.top.length) lines.push(...data.top[best].map(([k, share]) => `${(share / 100).toFixed(2)}  ${data.labels[k]}`));
    if (data.broad[best] !== "unknown") lines.push(`surely: ${data.broad[best]}`);
    if (data.batch.length) lines.push(`${data.batch_name}: ${data.batch[best]}`);
    tip.replaceChildren(...lines.map((line, k) => {
      const element = document.createElement("div");
      element.textContent = line;
      if (!k) element.className = "soft";
      if (k === 1) element.className = "strong";
      return element;
    }));
    const left = Math.min(px + 14, Math.max(0, size - tip.offsetWidth - 4));
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.min(py + 14, size - tip.offsetHeight - 4)}px`;
  }
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => { held = -1; tip.hidden = true; draw(); });
  document.querySelectorAll("[data-type]").forEach(button => button.addEventListener("click", () => {
    const k = Number(button.dataset.type);
    only = only === k ? -1 : k;
    document.querySelectorAll("[data-type]").forEach(other => other.setAttribute("aria-pressed", String(Number(other.dataset.type) === only)));
    draw();
  }));
  document.querySelectorAll("[name=colour]").forEach(input => input.addEventListener("change", () => {
    mode = document.querySelector("[name=colour]:checked").value;
    document.getElementById("ramp").hidden = mode !== "score";
    document.getElementById("classes").hidden = mode !== "broad";
    draw();
  }));
  document.getElementById("classes").replaceChildren(...[...classes, "unknown"].filter(name => sizes.has(name)).map(name => {
    const line = document.createElement("li"), icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const [colour, shape] = looks.get(name) || ["", "circle"], sign = document.createElementNS(icon.namespaceURI, shapes[shape] ? "polygon" : "circle");
    Object.entries({width: 12, height: 12, viewBox: "-6 -6 12 12", "aria-hidden": "true"}).forEach(([key, value]) => icon.setAttribute(key, value));
    if (shapes[shape]) sign.setAttribute("points", shapes[shape].map(([u, v]) => `${4 * u},${4 * v}`).join(" "));
    else sign.setAttribute("r", 4.5);
    sign.setAttribute("fill", colour || "currentColor");
    icon.append(sign);
    line.append(icon, `${name} ${sizes.get(name).toLocaleString("en")}`);
    return line;
  }));
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
