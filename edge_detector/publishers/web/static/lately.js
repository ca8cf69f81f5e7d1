// What happened lately: objects that came, with their pictures and clips.
import { askJson } from "./net.js";

const element = (id) => document.getElementById(id);
const SHOWN = 8;
let shown = "";

function row(event, clip) {
  const item = element("event").content.firstElementChild.cloneNode(true);
  const path = `/api/events/${encodeURIComponent(event.id)}`;
  const [shot, image] = [item.querySelector(".shot"), item.querySelector("img")];
  shot.href = event.has_snapshot ? `${path}/snapshot.jpg` : path;
  shot.setAttribute("aria-label", `Picture of ${event.label}`);
  image.hidden = !event.has_snapshot;
  if (event.has_snapshot) image.src = `${path}/snapshot.jpg`;
  const came = new Date(event.start_ts * 1000);
  const today = came.toDateString() === new Date().toDateString();
  item.querySelector("b").textContent = event.label;
  const seconds = Math.round(event.duration_s);
  const parts = [today ? came.toLocaleTimeString() : came.toLocaleString(), event.end_ts ? `${seconds} s` : "here now", event.camera, ...event.entered_zones];
  item.querySelector("small").textContent = parts.join(" · ");
  if (clip) {
    item.querySelector(".clip").hidden = false;
    item.querySelector(".clip").href = `/api/clips/${encodeURIComponent(clip.id)}/clip.mp4`;
    item.querySelector(".clip").setAttribute("aria-label", `Clip of ${event.label}`);
  }
  return item;
}

// `isWanted` is asked when the answers are there.
export async function showLately(camera, records, isWanted) {
  const query = new URLSearchParams({ limit: SHOWN, ...(camera !== null && { camera }) });
  const events = await askJson(`/api/events?${query}`);
  const clips = records && events.length ? await askJson("/api/clips?limit=50") : [];
  const found = events.map((event) => [event, clips.find((clip) => clip.objects.includes(event.id))]);
  if (!isWanted()) return;
  // Pictures are loaded anew only where something changed.
  const state = JSON.stringify(found.map(([event, clip]) => [event.id, event.end_ts, event.has_snapshot, event.entered_zones, Math.round(event.top_score * 20), clip?.id]));
  element("lately").hidden = events.length === 0;
  if (state === shown) return;
  shown = state;
  element("events").replaceChildren(...found.map(([event, clip]) => row(event, clip)));
}
