// The live page: keeps the stream open while the page is seen, and shows figures and detections beside it.
const POLL_MS = 400;
const RETRY_MS = 3000;
const SILENT_S = 5; // longer without a frame is worth saying
const OLD_S = 1; // as in the overlay; objects that are followed are known for longer
const FOLLOWED_OLD_S = 3;

const element = (id) => document.getElementById(id);
const picture = element("picture");
const view = element("view");

let labelColors = null;
let connected = true; // whether the last question to the server was answered
let refused = false; // whether the stream could not be opened
let camera = new URLSearchParams(location.search).get("camera"); // null: the first

// The address of something of the chosen camera.
function of(path, more = {}) {
  const query = new URLSearchParams(camera === null ? more : { camera, ...more });
  return query.size ? `${path}?${query}` : path;
}

function openStream() {
  picture.src = of("/stream.mjpg", { t: Date.now() });
}

// Nothing is known of this camera yet; what another one showed must not stay.
function showNothing(source) {
  for (const id of ["latency", "age", "inference", "capture"]) element(id).textContent = "–";
  element("source").textContent = source;
  element("count").textContent = 0;
  element("detections").replaceChildren();
  element("nothing").hidden = true;
  view.classList.add("empty");
}

function choose(name) {
  camera = name;
  history.replaceState(null, "", of("/"));
  showNothing("");
  openStream();
  for (const [id, path] of [["snapshot", "/snapshot.jpg"], ["json", "/api/detections"], ["stream", "/stream.mjpg"]]) element(id).href = of(path);
}

function closeStream() {
  picture.src = "/static/favicon.svg"; // another picture ends the stream, no picture would leave it open
}

async function fetchJson(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(RETRY_MS) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

function showState(state, word, message = "") {
  element("state").dataset.state = state;
  element("state").textContent = word;
  element("message").textContent = message;
  element("message").hidden = !message;
  view.classList.toggle("dim", state === "silent" || state === "offline");
}

function showCameras(status) {
  const list = element("camera");
  list.hidden = status.cameras.length < 2;
  if (list.options.length !== status.cameras.length) list.replaceChildren(...status.cameras.map((name) => new Option(name)));
  list.value = status.camera;
}

// What the service says of itself: its device, and the camera's troubles in words.
function showService(service, name) {
  const detector = service.detector;
  const away = detector.state === "ok" ? "" : `The ${detector.device} stands in for ${detector.wanted}: ${detector.error}`;
  element("notice").textContent = away;
  element("notice").hidden = !away;
  const own = service.cameras[name];
  element("pause").hidden = false;
  element("pause").setAttribute("aria-pressed", !own.detecting);
  element("pause").title = element("pause").ariaLabel = own.detecting ? "Pause detection" : "Resume detection";
  const seconds = Math.round(own.silent_s ?? service.process.uptime_s);
  if (own.state === "reconnecting" || own.state === "failed") showState("silent", own.state, `${own.error}\n(no picture for ${seconds} s)`);
  else if (own.state === "frozen") showState("silent", "frozen", "");
  else if (!own.detecting && own.state === "live") showState("paused", "paused");
}

function showStatus(status) {
  element("inference").textContent = status.fps.inference?.toFixed(1) ?? "–";
  element("capture").textContent = status.fps.capture?.toFixed(1) ?? "–";
  if (status.silent_s === null) showState("waiting", "waiting", "Waiting for the first picture…");
  else if (status.silent_s > SILENT_S) showState("silent", "no picture", `No new picture for ${Math.round(status.silent_s)} s`);
  else if (refused && status.viewers >= status.max_viewers) showState("full", "full", `All ${status.max_viewers} places are taken. Trying again…`);
  else showState("live", "live");
  showCameras(status);
  if (status.silent_s === null) showNothing(status.service?.cameras[status.camera].source ?? "");
  if (status.service !== null) showService(status.service, status.camera);
}

function row(detection) {
  const item = element("row").content.firstElementChild.cloneNode(true);
  item.style.setProperty("--color", labelColors[detection.class_id].color);
  item.style.setProperty("--score", `${detection.score * 100}%`);
  item.querySelector(".label").textContent = detection.label;
  item.querySelector(".track").textContent = detection.track_id === undefined ? "" : `#${detection.track_id}`;
  item.querySelector(".score").textContent = `${Math.round(detection.score * 100)}%`;
  return item;
}

function showResult(result) {
  const latency = Object.values(result.latency_ms).reduce((sum, ms) => sum + ms, 0);
  element("latency").textContent = latency ? latency.toFixed(latency < 10 ? 1 : 0) : "–";
  element("age").textContent = (result.age_ms / 1000).toFixed(2);
  element("age-of").textContent = result.still ? "Nothing moves" : "Searched";
  const limit = result.detections.some((detection) => "track_id" in detection) ? FOLLOWED_OLD_S : OLD_S;
  element("age-tile").classList.toggle("old", !result.still && result.age_ms > limit * 1000);
  element("source").textContent = result.source;
  element("model").textContent = `${result.model} · ${result.device ? `${result.device} · ` : ""}${result.width}×${result.height}`;
  element("count").textContent = result.detections.length;
  element("detections").replaceChildren(...result.detections.map(row));
  element("nothing").hidden = result.detections.length > 0;
  element("nothing").textContent = element("state").dataset.state === "paused" ? "Detection is paused." : "Nothing found in this picture.";
  view.classList.remove("empty");
}

async function poll() {
  try {
    labelColors ??= await fetchJson("/api/labels");
    const status = await fetchJson(of("/api/status"));
    if (!connected) openStream();
    connected = true;
    showStatus(status);
    if (status.silent_s !== null) showResult(await fetchJson(of("/api/detections")));
  } catch (error) {
    connected = false;
    labelColors = null; // the server may come back with another model
    showState("offline", "offline", "Connection lost. Trying again…");
  }
}

async function pollWhileSeen() {
  while (!document.hidden) {
    await poll();
    await new Promise((resolve) => setTimeout(resolve, connected ? POLL_MS : RETRY_MS));
  }
}

choose(camera);
let polling = pollWhileSeen();

document.addEventListener("visibilitychange", async () => {
  if (document.hidden) {
    closeStream();
  } else {
    openStream();
    await polling;
    polling = pollWhileSeen();
  }
});

picture.addEventListener("load", () => { refused = false; });
picture.addEventListener("error", () => {
  refused = true;
  setTimeout(() => connected && !document.hidden && openStream(), RETRY_MS);
});

element("camera").addEventListener("change", () => choose(element("camera").value));

element("pause").addEventListener("click", async () => {
  const body = JSON.stringify({ ...(camera !== null && { camera }), on: element("pause").getAttribute("aria-pressed") === "true" });
  const answer = await fetch("/api/detect", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  await answer.text();
});

element("fullscreen").hidden = !document.fullscreenEnabled;
element("fullscreen").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else view.requestFullscreen();
});
