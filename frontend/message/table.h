// Rows of text for a terminal.
#pragma once

#include <string>
#include <vector>

namespace postern::message {

// Columns with two spaces between. Control characters are shown as \xNN: others may have said it.
std::string table(std::vector<std::vector<std::string>> rows);

}  // namespace postern::message
