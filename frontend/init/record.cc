#include "frontend/init/record.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "protocol/limits.h"

namespace postern::init {
namespace {

// Layout: "PLR1", then the fields in the order of `visit`, integers in the machine's own order (the
// reader runs on the same machine, of the same version), strings as a u32 length and the bytes,
// lists as a u32 count and the elements. Nothing may follow the last field.
constexpr std::array<char, 4> kMagic = {'P', 'L', 'R', '1'};

class Writer {
 public:
  explicit Writer(std::string& out) noexcept : out_(out) {}

  template <class Number>
    requires std::is_integral_v<Number>
  bool field(const Number& number) {
    char bytes[sizeof(number)];
    std::memcpy(bytes, &number, sizeof(number));
    out_.append(bytes, sizeof(bytes));
    return true;
  }

  bool field(const Action& action) { return field(static_cast<std::uint8_t>(action)); }

  bool field(const std::string& text) {
    field(static_cast<std::uint32_t>(text.size()));
    out_ += text;
    return true;
  }

  bool field(const std::vector<std::uint8_t>& bytes) {
    field(static_cast<std::uint32_t>(bytes.size()));
    for (const std::uint8_t byte : bytes) {
      out_ += static_cast<char>(byte);
    }
    return true;
  }

  template <class Element>
  bool field(const std::vector<Element>& list) {
    field(static_cast<std::uint32_t>(list.size()));
    for (const Element& element : list) {
      field(element);
    }
    return true;
  }

 private:
  std::string& out_;
};

class Reader {
 public:
  explicit Reader(std::string_view rest) noexcept : rest_(rest) {}

  template <class Number>
    requires std::is_integral_v<Number>
  bool field(Number& number) {
    if (rest_.size() < sizeof(number)) {
      return false;
    }
    std::memcpy(&number, rest_.data(), sizeof(number));
    rest_.remove_prefix(sizeof(number));
    return true;
  }

  bool field(bool& flag) {
    std::uint8_t byte = 0;
    if (!field(byte) || byte > 1) {
      return false;
    }
    flag = byte == 1;
    return true;
  }

  bool field(Action& action) {
    std::uint8_t byte = 0;
    if (!field(byte) || byte < static_cast<std::uint8_t>(Action::kExec) ||
        byte > static_cast<std::uint8_t>(Action::kStart)) {
      return false;
    }
    action = static_cast<Action>(byte);
    return true;
  }

  // Every text ends up in a NUL-terminated argument of a system call: one with a NUL inside would
  // mean something else there.
  bool field(std::string& text) {
    std::uint32_t bytes = 0;
    if (!field(bytes) || bytes > rest_.size() ||
        rest_.substr(0, bytes).find('\0') != std::string_view::npos) {
      return false;
    }
    text.assign(rest_.substr(0, bytes));
    rest_.remove_prefix(bytes);
    return true;
  }

  bool field(std::vector<std::uint8_t>& bytes) {
    std::uint32_t count = 0;
    if (!field(count) || count > rest_.size()) {
      return false;
    }
    bytes.assign(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(count));
    rest_.remove_prefix(count);
    return true;
  }

  template <class Element>
  bool field(std::vector<Element>& list) {
    std::uint32_t count = 0;
    // An element takes four bytes at least, which bounds what is reserved.
    if (!field(count) || count > rest_.size() / sizeof(std::uint32_t)) {
      return false;
    }
    list.resize(count);
    return std::all_of(list.begin(), list.end(),
                       [this](Element& element) { return field(element); });
  }

  [[nodiscard]] bool at_end() const noexcept { return rest_.empty(); }

 private:
  std::string_view rest_;
};

// The one list of fields, for both directions.
template <class Visitor, class Record>
bool visit(Visitor& visitor, Record& record) {
  return visitor.field(record.action) && visitor.field(record.argv) &&
         visitor.field(record.environment) && visitor.field(record.forwarded) &&
         visitor.field(record.fixed) && visitor.field(record.prepend_path) &&
         visitor.field(record.append_path) && visitor.field(record.cwd) &&
         visitor.field(record.cwd_required) && visitor.field(record.cwd_expected) &&
         visitor.field(record.home) && visitor.field(record.app) && visitor.field(record.shell) &&
         visitor.field(record.umask) && visitor.field(record.no_eval) &&
         visitor.field(record.reaper) && visitor.field(record.instance) &&
         visitor.field(record.agent) && visitor.field(record.terminal) &&
         visitor.field(record.libs32) && visitor.field(record.glibc_needed) &&
         visitor.field(record.glibc_needed_by) && visitor.field(record.links) &&
         visitor.field(record.optional) && visitor.field(record.ignored_signals) &&
         visitor.field(record.blocked_signals) && visitor.field(record.filters) &&
         visitor.field(record.message_level);
}

}  // namespace

std::string encode(const LaunchRecord& record) {
  std::string out;
  out.reserve(16 * 1024);
  out.append(kMagic.data(), kMagic.size());
  Writer writer(out);
  visit(writer, record);
  return out;
}

Result<LaunchRecord> decode(std::string_view bytes) {
  if (bytes.size() > kMaxRecordBytes || !bytes.starts_with({kMagic.data(), kMagic.size()})) {
    return Error{.err = EBADMSG, .op = Op::kStart};
  }
  LaunchRecord record;
  Reader reader(bytes.substr(kMagic.size()));
  if (!visit(reader, record) || !reader.at_end()) {
    return Error{.err = EBADMSG, .op = Op::kStart};
  }
  return record;
}

}  // namespace postern::init
