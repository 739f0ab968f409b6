#include "policy/config/toml_document.h"

#include <algorithm>
#include <optional>
#include <utility>

#define TOML_EXCEPTIONS 0
// The library asserts what its input decides (a key that starts with no key character), and then
// handles it: an error with a line, not an abort.
#define TOML_ASSERT(expression) static_assert(true)
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include "policy/config/bare_text.h"

namespace postern::config {
namespace {

Place place_of(const toml::source_region& source) {
  return Place{source.begin.line, source.begin.column};
}

// Nothing where the value is of a type that no key of ours has.
std::optional<TomlValue> value_of(const toml::node& node) {
  if (const auto* flag = node.as_boolean()) {
    return TomlValue(flag->get());
  }
  if (const auto* number = node.as_integer()) {
    return TomlValue(number->get());
  }
  if (const auto* text = node.as_string()) {
    return TomlValue(text->get());
  }
  const toml::array* array = node.as_array();
  if (array == nullptr) {
    return std::nullopt;
  }
  std::vector<std::string> list;
  for (const toml::node& element : *array) {
    const auto* text = element.as_string();
    if (text == nullptr) {
      return std::nullopt;
    }
    list.push_back(text->get());
  }
  return TomlValue(std::move(list));
}

class Flattener {
 public:
  explicit Flattener(std::string file) { document_.file = std::move(file); }

  Outcome<TomlDocument> flatten(const toml::table& root) && {
    POSTERN_TRY(add_table(TomlTable{}, root, 0));
    sort_by_line();
    return std::move(document_);
  }

 private:
  static constexpr int kMostDepth = 2;

  static bool is_array_of_tables(const toml::node& node) {
    const toml::array* array = node.as_array();
    return array != nullptr && !array->empty() && array->is_homogeneous(toml::node_type::table);
  }

  // `depth` 0 is the top level. A table stands before those in it.
  Outcome<> add_table(TomlTable table, const toml::table& source, int depth) {
    const std::size_t index = document_.tables.size();
    document_.tables.push_back(std::move(table));
    for (const auto& [key, node] : source) {
      const bool is_list = is_array_of_tables(node);
      if (depth == kMostDepth || (!node.is_table() && !is_list)) {
        POSTERN_TRY(add_entry(document_.tables[index], key, node));
        continue;
      }
      const std::string name =
          (depth == 0 ? "" : document_.tables[index].name + '.') + std::string(key.str());
      if (!is_list) {
        POSTERN_TRY(add_inner(name, false, *node.as_table(), depth));
        continue;
      }
      for (const toml::node& element : *node.as_array()) {
        POSTERN_TRY(add_inner(name, true, *element.as_table(), depth));
      }
    }
    return Ok{};
  }

  Outcome<> add_inner(const std::string& name,
                      bool is_element,
                      const toml::table& table,
                      int depth) {
    return add_table({.name = name, .is_element = is_element, .place = place_of(table.source())},
                     table, depth + 1);
  }

  Outcome<> add_entry(TomlTable& table, const toml::key& key, const toml::node& node) const {
    const Place place = place_of(key.source());
    std::optional<TomlValue> value = value_of(node);
    if (!value) {
      return problem_at(
          document_.file, place,
          "the value of \"" + std::string(key.str()) +
              "\" is neither true or false, nor an integer, a string or a list of strings");
    }
    table.entries.push_back(TomlEntry{std::string(key.str()), std::move(*value), place,
                                      Place{node.source().end.line, node.source().end.column}});
    return Ok{};
  }

  // toml++ keeps keys in alphabetical order; people and first-match rules think in file order.
  void sort_by_line() {
    const auto before = [](const Place& a, const Place& b) {
      return std::pair(a.line, a.column) < std::pair(b.line, b.column);
    };
    for (TomlTable& table : document_.tables) {
      std::sort(table.entries.begin(), table.entries.end(),
                [&](const TomlEntry& a, const TomlEntry& b) { return before(a.place, b.place); });
    }
    std::stable_sort(
        document_.tables.begin() + 1, document_.tables.end(),
        [&](const TomlTable& a, const TomlTable& b) { return before(a.place, b.place); });
  }

  TomlDocument document_;
};

}  // namespace

Problem problem_at(const std::string& file, Place place, std::string_view what, std::string cure) {
  std::string text =
      file + ":" + std::to_string(place.line) + ":" + std::to_string(place.column) + ": ";
  text += what;
  return Problem{.what = std::move(text), .cure = std::move(cure)};
}

Outcome<TomlDocument> parse_toml(std::string_view text, std::string file) {
  if (const auto line = find_bare_non_ascii(text)) {
    return problem_at(file, {.line = *line, .column = 1}, kBareNonAscii);
  }
  const auto shape = as_ascii(text);
  toml::parse_result parsed = toml::parse(shape ? *shape : text);
  if (parsed && shape) {
    parsed = toml::parse(text);
  }
  if (!parsed) {
    return problem_at(file, place_of(parsed.error().source()), parsed.error().description());
  }
  return Flattener(std::move(file)).flatten(parsed.table());
}

std::string quote_toml(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      quoted += "\\u00";
      quoted += kHex[byte >> 4];
      quoted += kHex[byte & 15];
    } else {
      quoted += c;
    }
  }
  quoted += '"';
  return quoted;
}

}  // namespace postern::config
