// The host's mounts that "mount hostfs" shows inside.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace postern::plan {

// Mount points of the host, but for / and what lies in /proc, /sys, /dev, /run, /boot and /var; of
// nested ones the outermost (binds are recursive).
std::vector<std::string> host_mounts();

// The same from the text of /proc/self/mountinfo (proc(5)).
std::vector<std::string> parse_host_mounts(std::string_view mountinfo);

}  // namespace postern::plan
