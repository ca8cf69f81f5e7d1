// View: a camera's live pictures on a canvas, with boxes drawn at the screen's resolution.
const RETRY_MS = [500, 1000, 2000, 3000];
export const OLD_S = 1; // as in the overlay; objects that are followed are known for longer
export const FOLLOWED_OLD_S = 3;
const FADED = 0.4;

// How long ago the model found a detection, where that is worth saying; else 0.
function staleness(result, detection) {
  const age = (detection.age_ms ?? result.age_ms) / 1000;
  const followed = detection.age_ms !== undefined;
  const limit = !followed ? OLD_S : age > result.age_ms / 1000 + 0.001 ? OLD_S : result.still ? Infinity : FOLLOWED_OLD_S;
  return age > limit ? age : 0;
}

function overlap(from, to, otherFrom, otherTo) {
  return Math.max(0, Math.min(to, otherTo) - Math.max(from, otherFrom));
}

export class View {
  // `colors` gives the colour of a class_id, `wanted` whether a detection is shown; `seen` is called with each result.
  constructor(canvas, { colors, wanted = () => true, seen = () => {} }) {
    this.canvas = canvas;
    this.colors = colors;
    this.wanted = wanted;
    this.seen = seen;
    this.bitmap = null; // the picture that is shown
    this.result = null; // what was found in it
    this.attempt = 0;
    this.query = null;
  }

  // Show what /ws gives for these parameters, until `close`.
  open(query, drawsBoxes) {
    this.close();
    this.query = query;
    this.drawsBoxes = drawsBoxes;
    this.#connect();
  }

  close() {
    clearTimeout(this.timer);
    this.query = null;
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  // Forget the last picture, which is of another camera.
  clear() {
    this.bitmap?.close();
    this.bitmap = this.result = null;
  }

  redraw() {
    if (this.bitmap) this.#draw();
  }

  #connect() {
    const address = new URL(`/ws?${new URLSearchParams(this.query)}`, location.href);
    address.protocol = location.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(address));
    let result = null;
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.attempt = 0;
      if (typeof data === "string") {
        result = JSON.parse(data);
        if (this.query.pictures !== "true") this.#show(null, result);
      } else {
        this.#decode(socket, data, result);
      }
    };
    socket.onclose = () => {
      if (socket !== this.socket) return;
      this.timer = setTimeout(() => this.#connect(), RETRY_MS[Math.min(this.attempt++, RETRY_MS.length - 1)]);
    };
  }

  // While one picture is decoded, of those that come only the newest is kept.
  async #decode(socket, blob, result) {
    this.next = { socket, blob, result };
    if (this.decoding) return;
    this.decoding = true;
    while (this.next) {
      const { socket: from, blob: newest, result: found } = this.next;
      this.next = null;
      try {
        const bitmap = await createImageBitmap(newest);
        if (from === this.socket) this.#show(bitmap, found);
        else bitmap.close();
      } catch {
        // half a picture: the next one comes
      }
    }
    this.decoding = false;
  }

  #show(bitmap, result) {
    if (bitmap) {
      this.bitmap?.close();
      this.bitmap = bitmap;
    }
    this.result = result;
    if (bitmap) this.#draw();
    this.seen(result);
  }

  #draw() {
    const { canvas, bitmap } = this;
    const shown = canvas.clientWidth || bitmap.width;
    const scale = Math.min(3, Math.max(1, (shown * devicePixelRatio) / bitmap.width));
    const [width, height] = [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0, width, height);
    canvas.dataset.size = `${bitmap.width}x${bitmap.height}`;
    if (!this.drawsBoxes) return;
    const unit = Math.max(width / shown, canvas.clientHeight ? height / canvas.clientHeight : 0) || 1; // canvas pixels per CSS pixel
    const found = this.result.detections.filter(this.wanted).sort((one, other) => one.score - other.score);
    for (const detection of found) this.#drawBox(context, detection, unit);
    const taken = []; // by tags
    for (const detection of found.reverse()) this.#drawTag(context, detection, unit, taken);
    context.globalAlpha = 1;
  }

  #drawBox(context, detection, unit) {
    const { width, height } = context.canvas;
    const [x1, y1, x2, y2] = detection.box_norm;
    context.globalAlpha = staleness(this.result, detection) ? FADED : 1;
    for (const [color, line] of [["rgb(16 18 22 / 80%)", 4], [this.colors(detection.class_id), 2]]) {
      context.strokeStyle = color;
      context.lineWidth = line * unit;
      context.strokeRect(x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height);
    }
  }

  #drawTag(context, detection, unit, taken) {
    const { width, height } = context.canvas;
    const [x1, y1, , y2] = detection.box_norm;
    const stale = staleness(this.result, detection);
    const narrow = context.canvas.clientWidth < 520;
    const number = detection.track_id === undefined || narrow ? "" : ` #${detection.track_id}`;
    const text = `${detection.label}${number} ${Math.round(detection.score * 100)}%${stale ? ` · ${stale.toFixed(1)} s ago` : ""}`;
    const size = (narrow ? 9 : 12) * unit;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.globalAlpha = stale ? FADED : 1;
    const [tagWidth, tagHeight] = [context.measureText(text).width + size * 0.8, size * 1.5];
    const x = Math.max(0, Math.min(x1 * width - unit, width - tagWidth));
    // Above the box, inside at its top, below it or inside at its bottom: where it covers least of other tags.
    const [top, bottom] = [y1 * height - unit, y2 * height + unit];
    const tops = [top - tagHeight, top, bottom, bottom - tagHeight].filter((y) => y >= 0 && y <= height - tagHeight);
    const covered = (y) => taken.reduce((sum, tag) => sum + overlap(x, x + tagWidth, tag.x, tag.x + tag.width) * overlap(y, y + tagHeight, tag.y, tag.y + tagHeight), 0);
    const y = tops.length ? tops.reduce((best, one) => (covered(one) < covered(best) ? one : best)) : Math.max(0, top);
    taken.push({ x, y, width: tagWidth });
    context.fillStyle = this.colors(detection.class_id);
    context.fillRect(x, y, tagWidth, tagHeight);
    context.fillStyle = "#101216";
    context.textBaseline = "middle";
    context.fillText(text, x + size * 0.4, y + tagHeight * 0.54);
  }
}
