// One entry of the audit: fields in an order, and how a log shows them. The judge writes one for
// each decision; in user-namespace mode the front end writes one if the site asks for it. What the
// fields mean is in postern-helper(8), AUDIT.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace postern::audit {

inline constexpr std::size_t kMaxLineBytes = 1024;  // RFC 3164, 4.1: what every daemon takes
inline constexpr std::size_t kPathBytes = 400;      // of a path in a line, with its quotes
inline constexpr std::size_t kDetailBytes = 300;
inline constexpr std::size_t kNameBytes = 68;

// `text` between double quotes, escaped, at most `most` bytes; "..." marks what was cut. Quotes,
// backslashes and everything that is not printable ASCII are written \xNN, so that no value can end
// a line, forge a field or move a terminal's cursor (CVE-2023-28486).
[[nodiscard]] std::string quote_for_log(std::string_view text, std::size_t most);

class Record {
 public:
  // `name` is of small letters and hyphens; `value` is ours: a word of plain ASCII.
  void add(std::string_view name, std::string_view value);
  void add(std::string_view name, std::uint64_t value);

  // What somebody else chose: quoted. `most` bounds it in a line.
  void add_text(std::string_view name, std::string_view text, std::size_t most);

  // "uid=1000 decision=allow path="/a b" …", one line of printable ASCII.
  [[nodiscard]] std::string line() const;

  // An entry of the journal's own protocol (systemd, JOURNAL_NATIVE_PROTOCOL): the line as MESSAGE,
  // and each field with a name of its own, POSTERN_UID for uid, whole and escaped, without quotes.
  [[nodiscard]] std::string journal_entry(std::string_view program, int priority) const;

 private:
  struct Field {
    std::string name;
    std::string text;
    std::size_t most = 0;  // 0: ours, not quoted
  };

  std::vector<Field> fields_;
};

}  // namespace postern::audit
