#include "policy/accounts/files.h"

#include <algorithm>
#include <charconv>

#include "policy/text/split.h"

namespace postern::accounts {
namespace {

// "+" and "-" lines are about a directory service (nsswitch.conf(5), compat).
bool is_account(std::string_view name) {
  return !name.empty() && name[0] != '+' && name[0] != '-';
}

bool answers(std::string_view line, const Question& question) {
  const bool by_user = question.key == Key::kUserId || question.key == Key::kUserName;
  const bool by_id = question.key == Key::kUserId || question.key == Key::kGroupId;
  const auto fields = fields_of(line);
  if (!is_account(fields[0]) ||
      !(by_user ? user_of_line(line).has_value() : group_of_line(line).has_value())) {
    return false;
  }
  return by_id ? number_of(fields[2]) == number_of(question.value) : fields[0] == question.value;
}

}  // namespace

std::array<std::string_view, kPasswdFields> fields_of(std::string_view line) {
  std::array<std::string_view, kPasswdFields> fields{};
  for (std::size_t i = 0; i < kPasswdFields; ++i) {
    const auto colon = i + 1 < kPasswdFields ? line.find(':') : line.npos;
    fields[i] = line.substr(0, colon);
    line = colon == line.npos ? std::string_view{} : line.substr(colon + 1);
  }
  return fields;
}

std::optional<std::uint32_t> number_of(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(value)
                                                                  : std::nullopt;
}

std::string field(std::string_view text) {
  std::string clean(text);
  std::replace_if(clean.begin(), clean.end(), [](char c) { return c == ':' || c == '\n'; }, ' ');
  return clean;
}

Services services_of(std::string_view settings, std::string_view database) {
  Services out;
  text::for_each_line(settings, [&](std::string_view line) {
    const auto colon = line.find(':');
    const auto name = line.find_first_not_of(" \t");
    if (colon == line.npos || line.substr(name, colon - name) != database) {
      return;
    }
    line.remove_prefix(colon + 1);
    line = line.substr(0, line.find('#'));
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    const auto end = line.find_first_of(" \t[");
    out.files_first = line.substr(0, end) == "files";
    out.others =
        !out.files_first || (end != line.npos && line.find_first_not_of(" \t", end) != line.npos);
  });
  return out;
}

std::string line_in(std::string_view file, const Question& question) {
  std::string found;
  text::for_each_line(file, [&](std::string_view line) {
    if (found.empty() && answers(line, question)) {
      found = line;
    }
  });
  return found;
}

}  // namespace postern::accounts
