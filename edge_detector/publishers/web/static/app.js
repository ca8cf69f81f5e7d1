// The live page.
import { canRecord, record } from "./clip.js";
import { showLately } from "./lately.js";
import { showDetections } from "./list.js";
import { askJson, post } from "./net.js";
import { Spark } from "./spark.js";
import { FOLLOWED_OLD_S, OLD_S, View } from "./view.js";
import { Whep } from "./whep.js";

const STATUS_MS = 1000;
const RETRY_MS = 3000;
const LATELY_MS = 4000;
const LIST_MS = 200;
const TROUBLE_MS = 10000;
const SILENT_S = 5; // longer without a frame is worth saying
const ALL = "*"; // as camera: all of them
const TILE = { width: 480, fps: 5, pictures: "true" };

const element = (id) => document.getElementById(id);
const view = element("view");
const stored = recall();

let labels = []; // with their colours, by class_id
let settings = {};
let greeted = false; // whether labels and settings are known
let connected = true; // whether the last question to the server was answered
let camera = new URLSearchParams(location.search).get("camera"); // null: the first
let cameras = [];
let mode = stored.mode ?? "sharp";
let threshold = stored.threshold ?? 0;
const unwanted = new Set(stored.unwanted ?? []); // labels that are not shown
const known = new Set(); // labels that were seen
let listed = -Infinity; // when the list was renewed last
let forgetting; // what clears a trouble
let listing = null; // what will renew it
let stopRecording = null;

const color = (classId) => labels[classId]?.color ?? "#fff";
const wanted = (detection) => detection.score >= threshold && !unwanted.has(detection.label);
const live = new View(element("picture"), { colors: color, wanted, seen: showResult });
const whep = new Whep(element("video"));
const tiles = new Map(); // views by camera
const sparks = new Map();
for (const id of ["inference", "capture", "latency", "objects", "temperature"]) sparks.set(id, new Spark(element(id).closest("div")));

// What was chosen; a browser may forbid to keep it.
function recall() {
  try {
    return JSON.parse(localStorage.getItem("edge_detector")) ?? {};
  } catch {
    return {};
  }
}

function store() {
  try {
    localStorage.setItem("edge_detector", JSON.stringify({ mode, threshold, unwanted: [...unwanted] }));
  } catch {
    // it is chosen for this time
  }
}

// The query of something of the chosen camera.
function query(more = {}) {
  return new URLSearchParams({ ...(camera !== null && camera !== ALL && { camera }), ...more });
}

// The address of something of the chosen camera.
function of(path, more = {}) {
  const parameters = `${query(more)}`;
  return parameters ? `${path}?${parameters}` : path;
}

function openStreams() {
  closeStreams();
  if (camera === ALL) return openTiles();
  const video = mode === "video";
  element("video").hidden = !video;
  element("picture").hidden = video;
  live.open({ ...Object.fromEntries(query()), ...(!video && { pictures: "true", boxes: `${mode === "picture"}` }) }, mode === "sharp");
  if (video) openVideo();
}

async function openVideo() {
  const asked = camera;
  const isWanted = () => mode === "video" && asked === camera && !document.hidden;
  const again = () => setTimeout(() => isWanted() && openVideo(), RETRY_MS);
  try {
    await whep.open(query(), again);
  } catch (error) {
    if (!isWanted()) return;
    if (error.status === undefined || error.status >= 500) again(); // the server is away or full
    else setMode("sharp");
    showTrouble(`No video: ${error.message}`);
  }
}

function openTiles() {
  for (const name of cameras) {
    if (!tiles.has(name)) tiles.set(name, makeTile(name));
    tiles.get(name).open({ ...TILE, camera: name }, true);
  }
}

function closeStreams() {
  live.close();
  whep.close();
  for (const tile of tiles.values()) tile.close();
}

function makeTile(name) {
  const figure = element("tile").content.firstElementChild.cloneNode(true);
  figure.dataset.camera = name;
  figure.querySelector("b").textContent = name;
  figure.querySelector("canvas").setAttribute("aria-label", `Live picture of ${name}`);
  figure.querySelector("button").addEventListener("click", () => choose(name));
  element("grid").append(figure);
  return new View(figure.querySelector("canvas"), { colors: color, wanted });
}

// Nothing is known of this camera yet; what another one showed must not stay.
function showNothing(source) {
  for (const id of ["latency", "age", "inference", "capture", "objects"]) element(id).textContent = "–";
  element("source").textContent = source;
  showDetections([], color, null);
  element("nothing").hidden = true;
  view.classList.add("empty");
}

function choose(name) {
  stopRecording?.();
  camera = name;
  if (name !== null) element("camera").value = name;
  history.replaceState(null, "", of("/", camera === ALL ? { camera } : {}));
  live.clear();
  for (const spark of sparks.values()) spark.clear();
  showNothing("");
  element("grid").hidden = camera !== ALL;
  element("single").hidden = camera === ALL;
  for (const [id, path] of [["snapshot", "/snapshot.jpg"], ["json", "/api/detections"], ["stream", "/stream.mjpg"]]) element(id).href = of(path);
  if (greeted) openStreams();
}

function setMode(wantedMode) {
  mode = wantedMode;
  element("mode").value = mode;
  store();
  openStreams();
}

function showState(state, word, message = "") {
  element("state").dataset.state = state;
  if (element("state").textContent !== word) element("state").textContent = word; // or it would be read aloud again
  element("message").textContent = message;
  element("message").hidden = !message;
  view.classList.toggle("dim", state === "silent" || state === "offline");
}

function showNotice(text, id = "notice") {
  element(id).textContent = text;
  element(id).hidden = !text;
}

// What went wrong here, for a while.
function showTrouble(text) {
  showNotice(text, "trouble");
  clearTimeout(forgetting);
  forgetting = setTimeout(() => showNotice("", "trouble"), TROUBLE_MS);
}

function showCameras(status) {
  const list = element("camera");
  list.hidden = status.cameras.length < 2;
  if (status.cameras.join() !== cameras.join()) {
    cameras = status.cameras;
    for (const [name, tile] of tiles) {
      if (cameras.includes(name)) continue;
      tile.close();
      tile.clear();
      tile.canvas.closest("figure").remove();
      tiles.delete(name);
    }
    list.replaceChildren(...cameras.map((name) => new Option(name)), new Option("All cameras", ALL));
    if (camera === ALL) openTiles();
  }
  list.value = camera === ALL ? ALL : status.camera;
}

// What the service says of itself: its device, and the camera's troubles in words.
function showService(service, name) {
  const detector = service.detector;
  const faults = detector.state === "ok" ? [] : [`The ${detector.device} stands in for ${detector.wanted}: ${detector.error}`];
  for (const [sink, { state, trouble_s: seconds, error }] of Object.entries(service.sinks)) {
    if (seconds > SILENT_S) faults.push(`${sink} is ${state} (${Math.round(seconds)} s): ${error}`);
  }
  showNotice(faults.join("\n"));
  const own = service.cameras[name];
  element("pause").hidden = false;
  element("pause").setAttribute("aria-pressed", !own.detecting);
  nameButton("pause", own.detecting ? "Pause detection" : "Resume detection");
  const seconds = Math.round(own.silent_s ?? service.process.uptime_s);
  if (own.state === "reconnecting" || own.state === "failed") showState("silent", own.state, `${own.error}\n(no picture for ${seconds} s)`);
  else if (own.state === "frozen") showState("silent", "frozen", "");
  else if (!own.detecting && own.state === "live") showState("paused", "paused");
  for (const figure of element("grid").children) {
    const { state, detecting } = service.cameras[figure.dataset.camera];
    const badge = figure.querySelector(".state");
    badge.textContent = state === "live" && !detecting ? "paused" : state;
    badge.dataset.state = state === "live" ? (detecting ? "live" : "paused") : "silent";
  }
  const temperature = service.process.temperature_c;
  element("temperature-tile").hidden = temperature === null;
  if (temperature !== null) showFigure("temperature", temperature, temperature.toFixed(0));
}

function nameButton(id, title) {
  element(id).title = title;
  element(id).setAttribute("aria-label", title);
}

function showFigure(id, value, text) {
  element(id).textContent = text;
  sparks.get(id).add(value);
}

function showStatus(status) {
  const { inference, capture } = status.fps;
  if (inference !== undefined) showFigure("inference", inference, inference.toFixed(1));
  if (capture !== undefined) showFigure("capture", capture, capture.toFixed(1));
  if (live.result && live.query) {
    const latency = Object.values(live.result.latency_ms).reduce((sum, ms) => sum + ms, 0);
    if (latency) showFigure("latency", latency, latency.toFixed(latency < 10 ? 1 : 0));
    const count = live.result.detections.filter(wanted).length;
    showFigure("objects", count, count);
  }
  const full = status.viewers >= status.max_viewers && live.attempt > 1;
  if (camera === ALL) showState("live", `${status.cameras.length} cameras`);
  else if (status.silent_s === null) showState("waiting", "waiting", "Waiting for the first picture…");
  else if (status.silent_s > SILENT_S) showState("silent", "no picture", `No new picture for ${Math.round(status.silent_s)} s`);
  else if (full) showState("full", "full", `All ${status.max_viewers} places are taken. Trying again…`);
  else showState("live", "live");
  showCameras(status);
  if (status.silent_s === null) showNothing(status.service?.cameras[status.camera].source ?? "");
  if (status.service !== null) showService(status.service, status.camera);
}

function showLabels(detections) {
  for (const { label } of detections) {
    if (known.has(label)) continue;
    known.add(label);
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !unwanted.has(label);
    box.addEventListener("change", () => {
      if (box.checked) unwanted.delete(label);
      else unwanted.add(label);
      showFilter();
    });
    const line = document.createElement("label");
    line.append(box, ` ${label}`);
    element("labels").append(line);
  }
}

function showFilter() {
  const parts = [threshold ? `from ${Math.round(threshold * 100)}%` : "", unwanted.size ? `without ${[...unwanted].join(", ")}` : ""].filter(Boolean);
  element("filter").querySelector("summary").textContent = parts.length ? `Filter: ${parts.join(", ")}` : "Filter";
  element("threshold-value").textContent = `${Math.round(threshold * 100)}%`;
  store();
  live.redraw();
  if (live.result) listResult();
}

// Pictures come faster than one reads.
function showResult() {
  view.classList.remove("empty");
  element("record").disabled = false;
  listing ??= setTimeout(listResult, Math.max(0, listed + LIST_MS - performance.now()));
}

function listResult() {
  listing = null;
  listed = performance.now();
  const result = live.result;
  if (!result) return;
  element("age").textContent = (result.age_ms / 1000).toFixed(2);
  element("age-of").textContent = result.still ? "Nothing moves" : "Searched";
  const limit = result.detections.some((detection) => "track_id" in detection) ? FOLLOWED_OLD_S : OLD_S;
  element("age-tile").classList.toggle("old", !result.still && result.age_ms > limit * 1000);
  element("source").textContent = result.source;
  element("model").textContent = `${result.model} · ${result.device ? `${result.device} · ` : ""}${result.width}×${result.height}`;
  showLabels(result.detections);
  const shown = result.detections.filter(wanted);
  const video = element("video");
  showDetections(shown, color, mode !== "video" ? live.bitmap : video.videoWidth ? video : null);
  element("nothing").hidden = shown.length > 0;
  const paused = element("state").dataset.state === "paused";
  element("nothing").textContent = paused ? "Detection is paused." : result.detections.length ? "All that is found is filtered out." : "Nothing found in this picture.";
  element("picture").setAttribute("aria-label", `Live picture: ${shown.map((detection) => detection.label).join(", ") || "nothing found"}`);
}

async function greet() {
  labels = await askJson("/api/labels");
  settings = await askJson("/api/config");
  element("logout").hidden = Object.keys(settings.web?.users ?? {}).length === 0;
  const offered = [...element("mode").options].some((option) => option.value === "video");
  if (settings.stream?.webrtc && !offered) element("mode").add(new Option("Video (WebRTC)", "video"));
  if (mode === "video" && !settings.stream?.webrtc) mode = "sharp";
  element("mode").value = mode;
}

async function poll() {
  try {
    if (!labels.length) {
      await greet();
      openStreams();
      greeted = true;
    }
    const asked = camera;
    const status = await askJson(of("/api/status"));
    connected = true;
    if (asked === camera) showStatus(status);
  } catch (error) {
    if (error.status === 404 && camera !== null) return choose(null); // there is no such camera any more
    connected = false;
    labels = []; // the server may come back with another model
    showState("offline", "offline", "Connection lost. Trying again…");
  }
}

async function pollWhileSeen() {
  let lately = 0;
  while (!document.hidden) {
    await poll();
    if (connected && performance.now() - lately > LATELY_MS) {
      lately = performance.now();
      const asked = camera;
      const about = camera === ALL ? null : (camera ?? cameras[0]);
      await showLately(about, Boolean(settings.recordings?.path), () => asked === camera).catch(() => {});
    }
    await new Promise((resolve) => setTimeout(resolve, connected ? STATUS_MS : RETRY_MS));
  }
}

element("threshold").value = threshold * 100;
choose(camera);
showFilter();
let polling = pollWhileSeen();

document.addEventListener("visibilitychange", async () => {
  if (document.hidden) {
    closeStreams();
  } else {
    openStreams();
    await polling;
    polling = pollWhileSeen();
  }
});

element("camera").addEventListener("change", () => choose(element("camera").value));
element("mode").addEventListener("change", () => setMode(element("mode").value));

element("threshold").addEventListener("input", () => {
  threshold = element("threshold").value / 100;
  showFilter();
});

element("pause").addEventListener("click", () => {
  const detect = element("pause").getAttribute("aria-pressed") === "true";
  post("/api/control", { ...(camera !== null && { camera }), detect }).catch((error) => showTrouble(error.message));
});

element("logout").addEventListener("click", async () => {
  await post("/logout", {}).catch(() => {});
  location.replace("/login");
});

element("record").hidden = !canRecord();
element("record").addEventListener("click", () => {
  const showRecording = (on) => {
    element("record").setAttribute("aria-pressed", on);
    nameButton("record", on ? "Stop recording" : "Record a clip");
  };
  if (stopRecording) return stopRecording();
  if (mode === "video") setMode("sharp");
  stopRecording = record(element("picture"), camera ?? "camera", () => {
    stopRecording = null;
    showRecording(false);
  });
  showRecording(true);
});

element("fullscreen").hidden = !document.fullscreenEnabled;
element("fullscreen").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else view.requestFullscreen();
});
document.addEventListener("fullscreenchange", () => live.redraw());
