"""A real RTSP server that takes a stream: GStreamer's, run by Debian's Python, which has the bindings.

python3 rtsp_recorder.py PORT: prints its port, then for each picture that was sent to /front a line of JSON: the size,
and red, green and blue in the middle of the left and of the right half. Asks for user "me" and password "s3cret".
"""

import json
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

Gst.init(None)


def say(words):
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def tell(sink):
    sample = sink.emit("pull-sample")
    caps = sample.get_caps().get_structure(0)
    width, height = caps.get_value("width"), caps.get_value("height")
    pixels = sample.get_buffer().extract_dup(0, sample.get_buffer().get_size())
    stride = (3 * width + 3) // 4 * 4
    places = [(height // 2) * stride + 3 * (width * part // 4) for part in (1, 3)]
    say(json.dumps([[width, height], *(list(pixels[place : place + 3]) for place in places)]))
    return Gst.FlowReturn.OK


factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
factory.set_launch(
    "( rtph264depay name=depay0 ! h264parse ! openh264dec ! videoconvert ! video/x-raw,format=RGB "
    "! appsink name=sink emit-signals=true sync=false )"
)
factory.connect("media-configure", lambda _, media: media.get_element().get_by_name("sink").connect("new-sample", tell))
permissions = GstRtspServer.RTSPToken()
permissions.set_string("media.factory.role", "user")
auth = GstRtspServer.RTSPAuth()
auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
auth.add_digest("me", "s3cret", permissions)
factory.add_role_from_structure(
    Gst.Structure.from_string("user,media.factory.access=true,media.factory.construct=true")[0]
)
server = GstRtspServer.RTSPServer()
server.set_auth(auth)
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/front", factory)
server.attach(None)
say(server.get_bound_port())
loop = GLib.MainLoop()
GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, lambda *_: loop.quit())  # whoever started this has gone
loop.run()
