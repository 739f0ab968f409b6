# The request: what a frontend asks the helper for, decoded by the judge alone.
# Fields and their numbers are those of protocol/launch_request.h and protocol/verdict.h.
#
# One message of one segment with its segment table ("the standard stream framing"), at most 512 KiB.
# There is exactly one encoding of a request (the one that launch_codec.cc makes): anything else,
# unknown fields included, is malformed. A change of any field is a new protocol version.

@0xacb28a2cec8d0bce;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("postern::wire");

const noDescriptor :UInt16 = 65535;

struct Launch {
  version      @0  :UInt16;
  root         @1  :UInt8;                    # RootKind; always descriptor 0
  scratch      @2  :UInt8;                    # Scratch
  writableRoot @3  :Bool;
  scratchBytes @4  :UInt64;                   # 0 = the site's size
  upper        @5  :UInt16 = .noDescriptor;
  volumeKey    @6  :UInt16 = .noDescriptor;
  joinNet      @7  :UInt16 = .noDescriptor;
  namespaces   @8  :UInt32;                   # CLONE_NEW… bits
  capabilities @9  :UInt64;                   # bit n = capability n
  hostname     @10 :Text;                     # empty = keep
  layers       @11 :List(Layer);              # bottom first
  mounts       @12 :List(Mount);              # in the order of execution
  init         @13 :UInt16 = .noDescriptor;
  record       @14 :UInt16 = .noDescriptor;
}

struct Layer {
  kind       @0 :UInt8;                       # RootKind: kFuse, kDirectory
  descriptor @1 :UInt16 = .noDescriptor;
}

struct Mount {
  operation  @0 :UInt8;                       # Operation
  flags      @1 :UInt8;
  descriptor @2 :UInt16 = .noDescriptor;
  mode       @3 :UInt32;
  size       @4 :UInt64;
  target     @5 :Text;
}
