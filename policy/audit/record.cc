#include "policy/audit/record.h"

#include <algorithm>

#include <syslog.h>

namespace postern::audit {
namespace {

// PATH_MAX bytes, each written as four. The journal takes more; what is longer is no path.
constexpr std::size_t kMostJournalBytes = 4 * 4096 + 8;

}  // namespace

std::string quote_for_log(std::string_view text, std::size_t most) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x20 && byte < 0x7f && c != '"' && c != '\\';
    if (quoted.size() + (plain ? 1 : 4) + 4 > most) {
      return quoted + "...\"";
    }
    if (plain) {
      quoted += c;
    } else {
      quoted += "\\x";
      quoted += kDigits[byte >> 4];
      quoted += kDigits[byte & 15];
    }
  }
  return quoted + "\"";
}

void Record::add(std::string_view name, std::string_view value) {
  fields_.push_back({.name = std::string(name), .text = std::string(value)});
}

void Record::add(std::string_view name, std::uint64_t value) {
  add(name, std::to_string(value));
}

void Record::add_text(std::string_view name, std::string_view text, std::size_t most) {
  fields_.push_back({.name = std::string(name), .text = std::string(text), .most = most});
}

// A field that does not fit any more is left out whole: half of one could be taken for another.
std::string Record::line() const {
  constexpr std::size_t kHead = 64;  // priority, time and tag
  std::string line;
  for (const Field& field : fields_) {
    const std::string text = (line.empty() ? "" : " ") + field.name + '=' +
                             (field.most == 0 ? field.text : quote_for_log(field.text, field.most));
    if (line.size() + text.size() <= kMaxLineBytes - kHead) {
      line += text;
    }
  }
  return line;
}

std::string Record::journal_entry(std::string_view program, int priority) const {
  std::string entry = "MESSAGE=" + line() + "\nPRIORITY=" + std::to_string(priority) +
                      "\nSYSLOG_FACILITY=" + std::to_string(LOG_AUTHPRIV >> 3) +
                      "\nSYSLOG_IDENTIFIER=" + std::string(program) + '\n';
  for (const Field& field : fields_) {
    entry += "POSTERN_";
    std::transform(field.name.begin(), field.name.end(), std::back_inserter(entry), [](char c) {
      return c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    });
    const std::string quoted =
        field.most == 0 ? std::string() : quote_for_log(field.text, kMostJournalBytes);
    entry += '=' + (field.most == 0 ? field.text : quoted.substr(1, quoted.size() - 2)) + '\n';
  }
  return entry;
}

}  // namespace postern::audit
