// A TOML file as a flat list of tables, with the place of everything: what our policy files need
// and no more. The only file that sees toml++ is toml_document.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "policy/problem.h"

namespace postern::config {

// Lines and columns count from 1.
struct Place {
  std::uint32_t line = 0;
  std::uint32_t column = 0;
};

using TomlValue = std::variant<bool, std::int64_t, std::string, std::vector<std::string>>;

struct TomlEntry {
  std::string key;
  TomlValue value;
  Place place;  // of the key
  Place end;    // behind the value
};

// [name], or one element of [[name]]; the top level is the first table and has no name. A table in
// a table has both names: "outer.inner".
struct TomlTable {
  std::string name;
  bool is_element = false;
  Place place;
  std::vector<TomlEntry> entries;
};

struct TomlDocument {
  std::string file;  // as given, for messages
  std::vector<TomlTable> tables;
};

// Values are booleans, integers, strings and lists of strings. Anything else, or a table in a
// table in a table, is an error, "FILE:LINE:COLUMN: what".
[[nodiscard]] Outcome<TomlDocument> parse_toml(std::string_view text, std::string file);

// "FILE:LINE:COLUMN: what", for an error about something in a document.
[[nodiscard]] Problem problem_at(const std::string& file,
                                 Place place,
                                 std::string_view what,
                                 std::string cure = {});

// A string as TOML writes it, in double quotes (TOML 1.0, "basic strings").
[[nodiscard]] std::string quote_toml(std::string_view text);

}  // namespace postern::config
