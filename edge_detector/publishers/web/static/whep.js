// Video by WebRTC, asked for as WHEP says.
const GATHER_MS = 1000;

export class Whep {
  constructor(video) {
    this.video = video;
  }

  // Show a camera; `lost` is called when the connection ends by itself.
  async open(query, lost) {
    this.close();
    const peer = (this.peer = new RTCPeerConnection());
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.ontrack = ({ streams, track }) => {
      this.video.srcObject = streams[0] ?? new MediaStream([track]);
      this.video.play().catch(() => {});
    };
    peer.onconnectionstatechange = () => {
      if (peer === this.peer && ["failed", "disconnected", "closed"].includes(peer.connectionState)) lost();
    };
    await peer.setLocalDescription(await peer.createOffer());
    await gathered(peer);
    const answer = await fetch(`/whep?${query}`, { method: "POST", headers: { "Content-Type": "application/sdp" }, body: peer.localDescription.sdp });
    if (!answer.ok) throw new Error(await answer.text());
    if (peer !== this.peer) return;
    this.session = answer.headers.get("Location");
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  }

  close() {
    if (!this.peer) return;
    this.peer.close();
    this.peer = null;
    this.video.srcObject = null;
    if (this.session) fetch(this.session, { method: "DELETE", keepalive: true }).catch(() => {});
    this.session = null;
  }
}

function gathered(peer) {
  return new Promise((resolve) => {
    if (peer.iceGatheringState === "complete") return resolve();
    peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && resolve();
    setTimeout(resolve, GATHER_MS);
  });
}
