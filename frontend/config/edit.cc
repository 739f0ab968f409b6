#include "frontend/config/edit.h"

#include <charconv>
#include <optional>
#include <utility>

#include <strings.h>

namespace postern::config {
namespace {

struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
};

// Offset of a place in the text. toml++ counts columns in code points: continuation bytes of UTF-8
// do not count.
std::size_t offset_of(std::string_view text, Place place) {
  std::size_t at = 0;
  for (std::uint32_t line = 1; line < place.line; ++line) {
    at = text.find('\n', at) + 1;
  }
  for (std::uint32_t column = 1; column < place.column && at < text.size(); ++column) {
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) {
      ++at;
    }
  }
  return at;
}

const TomlTable* find_table(const TomlDocument& document, std::string_view name) {
  for (const TomlTable& table : document.tables) {
    if (table.name == name && !table.is_element) {
      return &table;
    }
  }
  return nullptr;
}

const TomlEntry* find_entry(const TomlTable& table, std::string_view name) {
  for (const TomlEntry& entry : table.entries) {
    if (entry.key == name) {
      return &entry;
    }
  }
  return nullptr;
}

std::string checked_end(std::string text) {
  if (!text.empty() && text.back() != '\n') {
    text += '\n';
  }
  return text;
}

Outcome<std::string> checked(std::string text, const std::string& file) {
  POSTERN_TRY(parse_site_config(text, file));
  return text;
}

std::vector<std::string> split(std::string_view words) {
  std::vector<std::string> list;
  while (!words.empty()) {
    const std::string_view word = words.substr(0, words.find(','));
    words.remove_prefix(std::min(word.size() + 1, words.size()));
    const std::size_t first = word.find_first_not_of(" \t");
    if (first != std::string_view::npos) {
      list.emplace_back(word.substr(first, word.find_last_not_of(" \t") - first + 1));
    }
  }
  return list;
}

bool same_words(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

Outcome<std::string> with_key(const std::string& text,
                              const std::string& file,
                              const Key& key,
                              const std::string& value) {
  POSTERN_TRY_ASSIGN(const TomlDocument document, parse_toml(text, file));
  const std::string line = std::string(key.name) + " = " + value;
  const TomlTable* table = find_table(document, key.table);
  if (table == nullptr) {
    std::string whole = checked_end(text);
    whole += (whole.empty() ? "[" : "\n[") + std::string(key.table) + "]\n" + line + "\n";
    return checked(std::move(whole), file);
  }
  std::string changed = text;
  if (const TomlEntry* entry = find_entry(*table, key.name)) {
    const std::size_t begin = offset_of(text, entry->place);
    changed.replace(begin, offset_of(text, entry->end) - begin, line);
    return checked(std::move(changed), file);
  }
  changed = checked_end(std::move(changed));
  const std::size_t header_end = changed.find('\n', offset_of(changed, table->place));
  changed.insert(header_end + 1, line + "\n");
  return checked(std::move(changed), file);
}

Outcome<std::string> without_key(const std::string& text, const std::string& file, const Key& key) {
  POSTERN_TRY_ASSIGN(const TomlDocument document, parse_toml(text, file));
  const TomlTable* table = find_table(document, key.table);
  const TomlEntry* entry = table == nullptr ? nullptr : find_entry(*table, key.name);
  if (entry == nullptr) {
    return text;
  }
  std::string changed = text;
  const std::size_t line = text.rfind('\n', offset_of(text, entry->place));
  const std::size_t begin = line == std::string::npos ? 0 : line + 1;
  const std::size_t end = text.find('\n', offset_of(text, entry->end));
  changed.erase(begin, (end == std::string::npos ? text.size() : end + 1) - begin);
  return checked(std::move(changed), file);
}

std::string site_text(const SiteConfig& site) {
  std::string text =
      "# Settings of Postern: postern.toml(5). Root must own this file and all directories above\n"
      "# it, and nobody else may write them: otherwise setuid mode refuses to start anything.\n";
  std::string_view table;
  for (const Key& key : keys()) {
    if (key.table != table) {
      table = key.table;
      text += "\n[" + std::string(table) + "]\n";
    }
    text += "# " + std::string(key.meaning) + "\n" + std::string(key.name) + " = " +
            value_text(site, key) + "\n";
  }
  return text;
}

Outcome<const Key*> key_named(std::string_view name) {
  if (const Key* key = find_key(name)) {
    return key;
  }
  for (const Key& key : keys()) {
    if (!key.directive.empty() && same_words(key.directive, name)) {
      return &key;
    }
  }
  return Problem{.what = "there is no setting \"" + std::string(name) + "\"",
                 .cure = "postern config global list shows all"};
}

TomlValue value_of_words(const Key& key, std::string_view words) {
  if (std::holds_alternative<List SiteConfig::*>(key.member)) {
    return split(words);
  }
  if (std::holds_alternative<bool SiteConfig::*>(key.member)) {
    if (words == "yes" || words == "true") {
      return true;
    }
    if (words == "no" || words == "false") {
      return false;
    }
  }
  if (std::holds_alternative<std::uint64_t SiteConfig::*>(key.member)) {
    std::int64_t number = 0;
    const auto [stop, error] = std::from_chars(words.data(), words.data() + words.size(), number);
    if (error == std::errc() && stop == words.data() + words.size()) {
      return number;
    }
  }
  return std::string(words);
}

}  // namespace postern::config
