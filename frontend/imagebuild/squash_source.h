// Source: a squashfs image in a file: alone, behind a launch script, or as the primary partition of
// a SIF. Read with the same reader as containers are served with: every position is checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "frontend/imagebuild/source.h"

namespace postern::imagebuild {

// `fd` is borrowed and must outlive the source; `name` is for messages.
Outcome<std::unique_ptr<Source>> squash_source(int fd,
                                               std::uint64_t offset,
                                               std::uint64_t size,
                                               std::string name);

}  // namespace postern::imagebuild
