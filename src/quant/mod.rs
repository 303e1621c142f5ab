//! NF4 in bitsandbytes' layout.
