// `postern overlay create`: an ext3 image that holds the changes of a container.
#pragma once

#include <span>
#include <string>

namespace postern::overlay {

// The words after `overlay`. Returns the exit status.
int overlay_command(std::span<const std::string> words);

}  // namespace postern::overlay
