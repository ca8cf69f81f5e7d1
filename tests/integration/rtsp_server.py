"""A real RTSP camera: GStreamer's server with H.264, run by Debian's Python, which has the bindings.

python3 rtsp_server.py PORT [FOLDER]: pictures of a folder (000.jpg, 001.jpg, ...) in a loop, else a bouncing ball; on
standard input, "size WIDTH HEIGHT" changes the resolution of a running stream.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

FPS = 10

Gst.init(None)
if len(sys.argv) > 2:
    pictures = f'multifilesrc location="{sys.argv[2]}/%03d.jpg" loop=true caps="image/jpeg,framerate={FPS}/1"'
    source = f"{pictures} ! jpegdec ! identity sync=true"
else:
    source = f"videotestsrc is-live=true pattern=ball ! video/x-raw,framerate={FPS}/1"
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( {source} ! videoconvert ! videoscale ! capsfilter name=size caps=video/x-raw,format=I420,width=640,height=480 "
    f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={FPS} threads=1 "
    "! rtph264pay name=pay0 pt=96 config-interval=-1 )"
)
factory.set_shared(True)
filters = []
factory.connect("media-configure", lambda _, media: filters.append(media.get_element().get_by_name("size")))
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
sys.stdout.write(f"{server.get_bound_port()}\n")
sys.stdout.flush()


def obey(stream, _):
    words = stream.readline().split()
    if not words:  # whoever started this has gone
        loop.quit()
        return False
    for size in filters:
        size.set_property("caps", Gst.Caps.from_string("video/x-raw,format=I420,width={},height={}".format(*words[1:])))
    return True


loop = GLib.MainLoop()
GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, obey)
loop.run()
