// Descriptors that were open when this program started.
#pragma once

#include <vector>

namespace postern::system {

// Those above standard error, made close-on-exec so that no program of ours keeps them open: they
// are for the payload alone. To be called before this program opens anything itself.
std::vector<int> take_inherited_descriptors();

// For a payload that is to reach nothing of the host but what it is given: a directory leads to all
// that lies around it (openat(2), ".."; CVE-2024-21626). Takes directories out of `inherited`, and
// puts /dev/null in the place of one that is a standard descriptor. Returns their numbers.
std::vector<int> take_out_directories(std::vector<int>& inherited);

}  // namespace postern::system
