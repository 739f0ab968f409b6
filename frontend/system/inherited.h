// Descriptors that were open when this program started.
#pragma once

#include <vector>

namespace postern::system {

// Those above standard error, made close-on-exec so that no program of ours keeps them open: they
// are for the payload alone. To be called before this program opens anything itself.
std::vector<int> take_inherited_descriptors();

}  // namespace postern::system
