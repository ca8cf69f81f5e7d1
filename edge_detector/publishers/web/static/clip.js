// Records what is shown and saves it as a file, in the browser alone.
const KINDS = ["video/mp4", "video/webm;codecs=vp9", "video/webm"];
const LONGEST_MS = 60000;
const FPS = 15;

export function canRecord() {
  return typeof MediaRecorder !== "undefined" && "captureStream" in HTMLCanvasElement.prototype;
}

// Start, and return a function that stops; `ended` is called when the file was saved.
export function record(canvas, name, ended) {
  const type = KINDS.find((kind) => MediaRecorder.isTypeSupported(kind));
  const stream = canvas.captureStream(FPS);
  const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 4e6 });
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const stop = () => recorder.state === "recording" && recorder.stop();
  const timer = setTimeout(stop, LONGEST_MS);
  recorder.onstop = () => {
    clearTimeout(timer);
    for (const track of stream.getTracks()) track.stop();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(parts, { type }));
    link.download = `${name}-${new Date().toISOString().replace(/[:.]/g, "-")}.${type.includes("mp4") ? "mp4" : "webm"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), LONGEST_MS);
    ended();
  };
  recorder.onerror = stop;
  recorder.start(1000);
  return stop;
}
