// Video by WebRTC, asked for as WHEP says. The server finds the way from the browser's own packets.

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
      if (peer !== this.peer || !["failed", "disconnected", "closed"].includes(peer.connectionState)) return;
      this.close();
      lost();
    };
    await peer.setLocalDescription(await peer.createOffer());
    const answer = await fetch(`/whep?${query}`, { method: "POST", headers: { "Content-Type": "application/sdp" }, body: peer.localDescription.sdp });
    if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
    const session = answer.headers.get("Location");
    if (peer !== this.peer) return end(session);
    this.session = session;
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  }

  close() {
    if (!this.peer) return;
    this.peer.close();
    this.peer = null;
    this.video.srcObject = null;
    if (this.session) end(this.session);
    this.session = null;
  }
}

function end(session) {
  fetch(session, { method: "DELETE", keepalive: true }).catch(() => {});
}
