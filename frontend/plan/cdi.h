// Devices of the Container Device Interface: what --device vendor.com/class=name adds to a
// container, as files of the host describe it
// (https://github.com/cncf-tags/container-device-interface, SPEC.md).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::plan {

struct CdiNode {
  std::string path;  // inside
  std::string host_path;
};

struct CdiMount {
  std::string path;  // inside
  std::string host_path;
  bool read_only = false;
};

// The container edits that can be made with the caller's own rights.
struct CdiEdits {
  std::vector<std::string> environment;  // NAME=VALUE, literally
  std::vector<CdiNode> nodes;
  std::vector<CdiMount> mounts;
  std::vector<std::string> ignored;  // sentences: what is left out, and why
};

// One file.
struct CdiSpec {
  struct Device {
    std::string name;
    CdiEdits edits;
  };

  std::string kind;  // vendor.com/class
  CdiEdits edits;    // of every device
  std::vector<Device> devices;
};

// A file's text as JSON. Error: what the standard does not allow in it, and where.
Outcome<CdiSpec> parse_cdi_spec(std::string_view json);

// What the devices add together, in the order of the words. A directory that stands later in the
// list overrides those before it; two files of one directory must not have the same device. `all`
// is every device of the kind, unless a file has a device of that name. Without directories: those
// of the standard. Error: a device that no file has, or the mistake in the file that may have it.
Outcome<CdiEdits> cdi_edits(const std::vector<std::string>& devices,
                            std::vector<std::string> directories);

}  // namespace postern::plan
