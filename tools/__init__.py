"""Tools for the machine that makes models; the runtime never imports them."""
