#include "frontend/plan/bind.h"

#include <charconv>
#include <utility>

namespace postern::plan {
namespace {

constexpr std::string_view kBindSyntax =
    "the form is src[:dst[:opts]], with opts among ro, rw, "
    "id=N, image-src=PATH";

Problem bad_item(std::string_view option, std::string_view item, std::string what) {
  return Problem{.what = std::string(option) + " \"" + std::string(item) + "\": " + std::move(what),
                 .cure = option == "--bind" ? std::string(kBindSyntax) : std::string{}};
}

// One comma separated item: its text for messages, and its colon separated fields, unescaped.
struct Item {
  std::string text;
  std::vector<std::string> fields{1};
};

std::vector<Item> split(std::string_view text) {
  std::vector<Item> items(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (c == '\\' && (next == ':' || next == ',' || next == '\\')) {
      items.back().text += c;
      items.back().text += next;
      items.back().fields.back() += next;
      ++i;
    } else if (c == ',') {
      items.emplace_back();
    } else {
      items.back().text += c;
      if (c == ':') {
        items.back().fields.emplace_back();
      } else {
        items.back().fields.back() += c;
      }
    }
  }
  return items;
}

bool is_bind_option(std::string_view text) {
  return text == "ro" || text == "rw" || text.starts_with("id=") || text.starts_with("image-src=");
}

Outcome<std::uint32_t> object_id(std::string_view digits) {
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
  if (error != std::errc{} || end != digits.data() + digits.size() || id == 0) {
    return Problem{.what = "id \"" + std::string(digits) + "\" is not a number of a SIF object"};
  }
  return id;
}

// `option`: the caller's word for messages, `item`: the whole item.
Outcome<> apply(Bind& bind, std::string_view word, std::string_view option, std::string_view item) {
  if (word == "ro") {
    bind.read_only = true;
  } else if (word == "rw") {
    bind.read_only = false;
  } else if (word.starts_with("id=")) {
    auto id = object_id(word.substr(3));
    if (!id) {
      return bad_item(option, item, id.error().what);
    }
    bind.image_id = *id;
  } else if (word.starts_with("image-src=")) {
    bind.image_path = word.substr(10);
    if (bind.image_path->empty() || bind.image_path->front() != '/') {
      return bad_item(option, item, "image-src is not an absolute path");
    }
  } else {
    return bad_item(option, item, "unknown option \"" + std::string(word) + "\"");
  }
  return Ok{};
}

Outcome<> check(const Bind& bind, std::string_view option, std::string_view item) {
  if (bind.source.empty()) {
    return bad_item(option, item, "the source is empty");
  }
  if (!bind.target.empty() && bind.target.front() != '/') {
    return bad_item(option, item,
                    "the destination \"" + bind.target + "\" is not an absolute path");
  }
  if (bind.source.find('\0') != std::string::npos || bind.target.find('\0') != std::string::npos) {
    return bad_item(option, item, "it contains a NUL");
  }
  return Ok{};
}

// The fields of one CSV record, which ends at a newline outside quotes; moves `at` behind it.
Outcome<std::vector<std::string>> csv_record(std::string_view text, std::size_t& at) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c != '"') {
        fields.back() += c;
      } else if (at + 1 < text.size() && text[at + 1] == '"') {
        fields.back() += c;
        ++at;
      } else {
        quoted = false;
      }
    } else if (c == '"' && fields.back().empty()) {
      quoted = true;
    } else if (c == ',') {
      fields.emplace_back();
    } else if (c == '\n') {
      ++at;
      return fields;
    } else {
      fields.back() += c;
    }
  }
  if (quoted) {
    return Problem{.what = "a quote is not closed"};
  }
  return fields;
}

Outcome<> apply_field(Bind& bind, std::string_view field, std::string_view item) {
  const auto equals = field.find('=');
  const std::string_view key = field.substr(0, equals);
  const std::string_view value =
      equals == field.npos ? std::string_view{} : field.substr(equals + 1);
  if (key == "type") {
    if (value != "bind") {
      return bad_item("--mount", item,
                      "type \"" + std::string(value) + "\" is unknown; only bind exists");
    }
  } else if (key == "source" || key == "src") {
    bind.source = value;
  } else if (key == "destination" || key == "dst" || key == "target") {
    bind.target = value;
  } else if (key == "ro" || key == "readonly") {
    if (!value.empty() && value != "true" && value != "1" && value != "false" && value != "0") {
      return bad_item("--mount", item, "\"" + std::string(field) + "\": true or false is expected");
    }
    bind.read_only = value.empty() || value == "true" || value == "1";
  } else if (key == "nonested") {
    bind.nested = false;
  } else if (key == "id" || key == "image-src") {
    return apply(bind, field, "--mount", item);
  } else {
    return bad_item("--mount", item, "unknown field \"" + std::string(key) + "\"");
  }
  return Ok{};
}

}  // namespace

Outcome<std::vector<Bind>> parse_binds(std::string_view text) {
  std::vector<Bind> binds;
  bool has_options = false;  // the item before ended in options, which may go on after a comma
  for (const Item& item : split(text)) {
    if (item.text.empty()) {
      continue;  // "a,,b" and a trailing comma: harmless, and common in composed variables
    }
    if (has_options && item.fields.size() == 1 && is_bind_option(item.fields[0])) {
      POSTERN_TRY(apply(binds.back(), item.fields[0], "--bind", item.text));
      continue;
    }
    if (item.fields.size() > 3) {
      return bad_item("--bind", item.text, "too many colons; \\: stands for a colon in a path");
    }
    Bind bind;
    bind.source = item.fields[0];
    if (item.fields.size() > 1) {
      bind.target = item.fields[1];
    }
    has_options = item.fields.size() > 2;
    if (has_options && !item.fields[2].empty()) {
      POSTERN_TRY(apply(bind, item.fields[2], "--bind", item.text));
    }
    POSTERN_TRY(check(bind, "--bind", item.text));
    binds.push_back(std::move(bind));
  }
  return binds;
}

Outcome<std::vector<Bind>> parse_mounts(std::string_view text) {
  std::vector<Bind> binds;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t begin = at;
    auto fields = csv_record(text, at);
    const std::string_view item =
        text.substr(begin, at - begin - (at > begin && text[at - 1] == '\n'));
    if (!fields) {
      return bad_item("--mount", item, fields.error().what);
    }
    if (fields->size() == 1 && fields->front().empty()) {
      continue;  // an empty line
    }
    Bind bind;
    for (const std::string& field : *fields) {
      POSTERN_TRY(apply_field(bind, field, item));
    }
    if (bind.target.empty()) {
      return bad_item("--mount", item, "destination= is missing");
    }
    POSTERN_TRY(check(bind, "--mount", item));
    binds.push_back(std::move(bind));
  }
  return binds;
}

std::string absolute_path(std::string_view path, std::string_view directory) {
  std::string joined;
  if (path.empty() || path.front() != '/') {
    joined = directory;
    joined += '/';
  }
  joined += path;
  std::string clean;
  std::size_t at = 0;
  while (at < joined.size()) {
    const std::size_t end = std::min(joined.find('/', at), joined.size());
    const std::string_view part = std::string_view(joined).substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") {
      continue;
    }
    if (part == "..") {
      clean.resize(clean.empty() ? 0 : clean.rfind('/'));
      continue;
    }
    clean += '/';
    clean += part;
  }
  return clean.empty() ? "/" : clean;
}

}  // namespace postern::plan
