// The texts of `sif header`, `sif list` and `sif info`, as other SIF tools print them.
#pragma once

#include <string>

#include "policy/sif/reader.h"

namespace postern::sif {

std::string header_text(const Image& image);
std::string list_text(const Image& image);
std::string info_text(const Descriptor& descriptor);

// "2020-06-30 00:01:56 +0000 UTC"; the number itself where the calendar cannot hold it.
std::string time_text(std::int64_t unix_seconds);

// "27 KiB": whole units, cut off.
std::string size_text(std::int64_t bytes);

}  // namespace postern::sif
