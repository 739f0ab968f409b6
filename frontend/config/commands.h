// `postern capability` and `postern config`: the site's settings, by hand and from other programs'.
#pragma once

#include <span>
#include <string>

namespace postern::config {

// `words` is what stood after the command's name; `site_file` the postern.toml in use, beside which
// capability.toml and ecl.toml lie. They print results on standard output and problems through
// message; they return the exit status.

// add|drop [--user NAME] [--group NAME] CAPABILITIES; list [NAME]; avail [CAPABILITIES]
int capability_command(std::span<const std::string> words, const std::string& site_file);

// global [--get|--set|--unset|--reset|list|check …]; import FILE-OR-DIRECTORY…
int config_command(std::span<const std::string> words, const std::string& site_file);

}  // namespace postern::config
