// Spark: the last two minutes of a figure as a small line below it.
const POINTS = 120;
const SVG = "http://www.w3.org/2000/svg";

export class Spark {
  constructor(tile) {
    this.values = [];
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("aria-hidden", "true");
    this.line = svg.appendChild(document.createElementNS(SVG, "polyline"));
    tile.append(svg);
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > POINTS) this.values.shift();
    const known = this.values.filter((one) => one !== null);
    const top = Math.max(...known, 1e-9) * 1.15;
    const first = POINTS - this.values.length;
    const points = this.values.map((one, index) => (one === null ? "" : `${first + index},${(19 - (18 * one) / top).toFixed(1)}`));
    this.line.setAttribute("points", points.filter(Boolean).join(" "));
  }

  clear() {
    this.values = [];
    this.line.setAttribute("points", "");
  }
}
