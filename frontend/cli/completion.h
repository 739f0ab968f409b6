// Shell completions, made from the command and option tables.
#pragma once

#include <string>
#include <string_view>

namespace postern::cli {

// The script for "bash", "zsh" or "fish"; empty for another word.
std::string completion_script(std::string_view shell);

}  // namespace postern::cli
