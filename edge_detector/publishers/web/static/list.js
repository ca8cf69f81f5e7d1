// The list of what is in view, with a small picture of each object.
const element = (id) => document.getElementById(id);
const THUMB_MS = 1000; // a small picture is renewed so often
const rows = new Map(); // by number of the object, or place in the list

function makeRow() {
  const item = element("row").content.firstElementChild.cloneNode(true);
  item.drawn = -Infinity;
  return item;
}

function drawThumb(canvas, picture, [x1, y1, x2, y2]) {
  const [width, height] = [picture.videoWidth ?? picture.width, picture.videoHeight ?? picture.height];
  const side = Math.max(8, Math.min(Math.max((x2 - x1) * width, (y2 - y1) * height) * 1.1, width, height));
  const place = (middle, size) => Math.max(0, Math.min(middle * size - side / 2, size - side));
  const context = canvas.getContext("2d");
  context.drawImage(picture, place((x1 + x2) / 2, width), place((y1 + y2) / 2, height), side, side, 0, 0, canvas.width, canvas.height);
}

// `picture` is a bitmap or a video that shows them, or null.
export function showDetections(detections, color, picture) {
  const now = performance.now();
  const items = detections.map((detection, index) => {
    const key = detection.track_id ?? `at ${index}`;
    const item = rows.get(key) ?? makeRow();
    rows.set(key, item);
    item.style.setProperty("--color", color(detection.class_id));
    item.style.setProperty("--score", `${detection.score * 100}%`);
    item.querySelector(".label").textContent = detection.label;
    item.querySelector(".track").textContent = detection.track_id === undefined ? "" : `#${detection.track_id}`;
    item.querySelector(".score").textContent = `${Math.round(detection.score * 100)}%`;
    const thumb = item.querySelector(".thumb");
    if (picture !== null && now - item.drawn > THUMB_MS) {
      drawThumb(thumb, picture, detection.box_norm);
      item.drawn = now;
    }
    return item;
  });
  for (const [key, item] of rows) if (!items.includes(item)) rows.delete(key);
  const list = element("detections");
  if (items.length !== list.children.length || items.some((item, index) => item !== list.children[index])) list.replaceChildren(...items);
  element("count").textContent = detections.length;
}
