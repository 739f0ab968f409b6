// Changing one key of postern.toml while everything else, comments included, stays as it is.
#pragma once

#include <string>
#include <string_view>

#include "policy/config/site.h"
#include "policy/problem.h"

namespace postern::config {

// `text` with `key` set to `value` (as TOML writes it): in its place where the file has it, behind
// the header of its table, or in a table at the end. The result is checked: an error means that
// `text` did not parse, or that the value does not.
[[nodiscard]] Outcome<std::string> with_key(const std::string& text,
                                            const std::string& file,
                                            const Key& key,
                                            const std::string& value);

// `text` without the key, so that the default holds.
[[nodiscard]] Outcome<std::string> without_key(const std::string& text,
                                               const std::string& file,
                                               const Key& key);

// A whole file with every key of `site` and its meaning as a comment.
[[nodiscard]] std::string site_text(const SiteConfig& site);

// The key that "limit.paths", or "limit container paths" of apptainer.conf, names. Problem: none.
[[nodiscard]] Outcome<const Key*> key_named(std::string_view name);

// Words of the command line as a value for the key: yes and no are true and false, a list is split
// at commas. Pass them to set_value.
[[nodiscard]] TomlValue value_of_words(const Key& key, std::string_view words);

}  // namespace postern::config
