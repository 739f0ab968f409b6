#include "frontend/imagebuild/tar_reader.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <archive.h>
#include <archive_entry.h>

namespace postern::imagebuild {
namespace {

// (uid_t)-1 means "unchanged" to chown(2): no file has it.
constexpr std::int64_t kMaxOwner = std::numeric_limits<std::uint32_t>::max() - std::int64_t{1};
// Larger than any real file system's files; what is beyond is a forged header.
constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 50;

std::string text_of(const char* text) {
  return text == nullptr ? std::string() : text;
}

void read_attributes(::archive_entry* entry, std::vector<Attribute>& out) {
  archive_entry_xattr_reset(entry);
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
    if (name != nullptr) {
      out.push_back({name, value == nullptr ? std::string()
                                            : std::string(static_cast<const char*>(value), size)});
    }
  }
  // Archives list them in any order; the image does not depend on it.
  std::sort(out.begin(), out.end(),
            [](const Attribute& a, const Attribute& b) { return a.name < b.name; });
}

// The bytes of the stream since before the present member's header. Those that libarchive holds
// are the last piece; earlier ones are kept only while a header is read, so that data costs
// nothing.
class HeaderBytes {
 public:
  void begin_header() {
    in_header_ = true;
    kept_.clear();
  }

  void end_header() { in_header_ = false; }

  // A piece replaces the last one, whose bytes end to be valid.
  void before_piece() {
    if (!in_header_) {
      return;
    }
    if (kept_.size() > 2 * kMost) {  // the data that libarchive reads to get over it
      kept_.erase(kept_.begin(), kept_.end() - kMost);
    }
    kept_.insert(kept_.end(), last_.begin(), last_.end());
  }

  void piece(std::span<const std::byte> bytes) {
    last_ = bytes;
    end_ += bytes.size();
  }

  void skipped(std::uint64_t bytes) {
    if (bytes > 0) {
      last_ = {};
      kept_.clear();
      end_ += bytes;
    }
  }

  // [from, to) of the stream; empty if some of it is gone (more than libarchive takes for headers).
  [[nodiscard]] std::string range(std::uint64_t from, std::uint64_t to) const {
    const std::uint64_t begin = end_ - last_.size() - kept_.size();
    if (from < begin || to > end_ || from > to) {
      return {};
    }
    std::string out;
    out.reserve(to - from);
    for (std::uint64_t at = from; at < to;) {
      const std::uint64_t skip = at - begin;
      const std::span<const std::byte> part =
          skip < kept_.size() ? std::span(kept_).subspan(skip) : last_.subspan(skip - kept_.size());
      const std::size_t take = std::min<std::uint64_t>(part.size(), to - at);
      out.append(reinterpret_cast<const char*>(part.data()), take);
      at += take;
    }
    return out;
  }

 private:
  static constexpr std::ptrdiff_t kMost = 4 << 20;  // libarchive takes 1 MiB of pax attributes
  bool in_header_ = false;
  std::vector<std::byte> kept_;
  std::span<const std::byte> last_;
  std::uint64_t end_ = 0;  // position in the stream behind the last piece
};

constexpr std::size_t kBlock = 512;  // of tar(5)

// The size field of a ustar header: octal digits. Nothing for other forms.
std::optional<std::size_t> octal_size(std::string_view header) {
  std::string_view field = header.substr(124, 12);
  field = field.substr(0, field.find_first_of(std::string_view(" \0", 2)));
  std::size_t out = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), out, 8);
  return error == std::errc() && end == field.data() + field.size() ? std::optional(out)
                                                                    : std::nullopt;
}

// The keyword of a record of `attributes` ("LENGTH KEYWORD=VALUE\n", pax(1)) that names something
// and whose value has a NUL, at which libarchive cuts it: "bin/sh\0harmless" would be bin/sh.
std::optional<std::string> cut_keyword(std::string_view attributes) {
  while (!attributes.empty()) {
    std::size_t length = 0;
    const auto [end, error] =
        std::from_chars(attributes.data(), attributes.data() + attributes.size(), length);
    const std::size_t digits = static_cast<std::size_t>(end - attributes.data());
    if (error != std::errc() || length <= digits || length > attributes.size()) {
      return std::nullopt;  // libarchive says what is wrong with it
    }
    const std::string_view record = attributes.substr(digits, length - digits);
    attributes.remove_prefix(length);
    const std::size_t equals = record.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      continue;
    }
    const std::string_view keyword = record.substr(1, equals - 1);
    const bool names = keyword == "path" || keyword == "linkpath" || keyword == "uname" ||
                       keyword == "gname" || keyword == "GNU.sparse.name";
    if ((names && record.find('\0') != std::string_view::npos) ||
        keyword.find('\0') != std::string_view::npos) {
      return std::string(keyword.substr(0, keyword.find('\0')));
    }
  }
  return std::nullopt;
}

// The same of all extended headers ('x', 'g') in front of a member's own.
std::optional<std::string> cut_keyword_of_headers(std::string_view headers) {
  while (headers.size() >= kBlock) {
    const char type = headers[156];
    const auto size = octal_size(headers);
    if ((type != 'x' && type != 'g' && type != 'X' && type != 'L' && type != 'K') || !size ||
        *size > headers.size() - kBlock) {
      return std::nullopt;
    }
    if (type != 'L' && type != 'K') {
      if (auto cut = cut_keyword(headers.substr(kBlock, *size))) {
        return cut;
      }
    }
    headers.remove_prefix(
        std::min(headers.size(), kBlock + (*size + kBlock - 1) / kBlock * kBlock));
  }
  return std::nullopt;
}

}  // namespace

struct TarReader::State {
  Stream& below;
  std::string name;
  ::archive* reader = archive_read_new();
  bool open = false;
  bool any = false;  // a header was read
  HeaderBytes bytes;
  std::optional<Problem> problem;

  State(Stream& stream, std::string text) : below(stream), name(std::move(text)) {}

  ~State() { archive_read_free(reader); }

  static la_ssize_t read(::archive* reader, void* self, const void** out) {
    auto* state = static_cast<State*>(self);
    state->bytes.before_piece();
    auto piece = state->below.next();
    if (!piece) {
      state->problem = std::move(piece).error();
      archive_set_error(reader, EIO, "%s", "reading failed");
      return -1;
    }
    state->bytes.piece(*piece);
    *out = piece->data();
    return static_cast<la_ssize_t>(piece->size());
  }

  static la_int64_t skip(::archive*, void* self, la_int64_t bytes) {
    auto* state = static_cast<State*>(self);
    const std::uint64_t left_out =
        state->below.skip(static_cast<std::uint64_t>(std::max<la_int64_t>(bytes, 0)));
    state->bytes.skipped(left_out);
    return static_cast<la_int64_t>(left_out);
  }

  Problem failed() {
    if (problem) {
      return *problem;
    }
    const char* words = archive_error_string(reader);
    if (!any) {
      return Problem{.what = name + " is not a tar archive" +
                             (words != nullptr ? std::string(": ") + words : std::string())};
    }
    return Problem{.what = "reading " + name + ": " + (words != nullptr ? words : "unknown error"),
                   .cure = "the archive is damaged or incomplete: copy or download it again"};
  }
};

TarReader::TarReader(Stream& below, std::string name)
    : state_(std::make_unique<State>(below, std::move(name))) {
  POSTERN_CHECK(state_->reader != nullptr);
  archive_read_support_format_tar(state_->reader);
  archive_read_support_format_empty(state_->reader);
}

namespace {

// None: what a root file system has no use for (a socket, a type of one archiver's own).
std::optional<Kind> kind_of(::archive_entry* entry) {
  switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
      return Kind::kFile;
    case AE_IFDIR:
      return Kind::kDirectory;
    case AE_IFLNK:
      return Kind::kSymlink;
    case AE_IFCHR:
      return Kind::kCharDevice;
    case AE_IFBLK:
      return Kind::kBlockDevice;
    case AE_IFIFO:
      return Kind::kFifo;
    default:
      return std::nullopt;
  }
}

// What is wrong with the entry, if anything is.
std::optional<std::string> fill(Inode& inode, ::archive_entry* entry) {
  const la_int64_t uid = archive_entry_uid(entry);
  const la_int64_t gid = archive_entry_gid(entry);
  if (uid < 0 || uid > kMaxOwner || gid < 0 || gid > kMaxOwner) {
    return "an owner that no system has (" + std::to_string(uid) + ":" + std::to_string(gid) + ")";
  }
  inode.uid = static_cast<std::uint32_t>(uid);
  inode.gid = static_cast<std::uint32_t>(gid);
  inode.mode = static_cast<std::uint16_t>(archive_entry_perm(entry) & 07777);
  inode.mtime = archive_entry_mtime(entry);
  if (inode.kind == Kind::kFile) {
    const la_int64_t size = archive_entry_size(entry);
    if (size < 0 || size > kMaxFileBytes) {
      return "an impossible size (" + std::to_string(size) + " bytes)";
    }
    inode.size = static_cast<std::uint64_t>(size);
  } else if (inode.kind == Kind::kSymlink) {
    inode.target = text_of(archive_entry_symlink(entry));
    if (inode.target.empty() || inode.target.size() > kMaxTarget) {
      return "a symbolic link target of " + std::to_string(inode.target.size()) + " bytes";
    }
  } else if (inode.kind == Kind::kCharDevice || inode.kind == Kind::kBlockDevice) {
    inode.major = static_cast<std::uint32_t>(archive_entry_rdevmajor(entry));
    inode.minor = static_cast<std::uint32_t>(archive_entry_rdevminor(entry));
  }
  read_attributes(entry, inode.attributes);
  return std::nullopt;
}

}  // namespace

TarReader::~TarReader() = default;

std::uint64_t TarReader::data_offset() const {
  return static_cast<std::uint64_t>(archive_filter_bytes(state_->reader, 0));
}

// Null: the end of the archive.
Outcome<::archive_entry*> TarReader::next_header() {
  State& state = *state_;
  if (!state.open) {
    if (archive_read_open2(state.reader, &state, nullptr, State::read, State::skip, nullptr) !=
        ARCHIVE_OK) {
      return state.failed();
    }
    state.open = true;
  }
  ::archive_entry* entry = nullptr;
  state.bytes.begin_header();
  const int status = archive_read_next_header(state.reader, &entry);
  state.bytes.end_header();
  if (status == ARCHIVE_EOF) {
    return static_cast<::archive_entry*>(nullptr);
  }
  // ARCHIVE_WARN: a name that is not UTF-8 though its header promises it. The raw bytes are kept.
  if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
    return state.failed();
  }
  state.any = true;
  const std::string headers = state.bytes.range(
      static_cast<std::uint64_t>(archive_read_header_position(state.reader)), data_offset());
  if (const auto cut = cut_keyword_of_headers(headers)) {
    return Problem{.what = "the pax attribute '" + *cut + "' of '" +
                           text_of(archive_entry_pathname(entry)) + "' in " + state.name +
                           " has a NUL byte",
                   .cure = "the archive is damaged, or made to deceive: do not trust it"};
  }
  return entry;
}

Outcome<std::optional<TarEntry>> TarReader::next() {
  POSTERN_TRY_ASSIGN(::archive_entry* const entry, next_header());
  if (entry == nullptr) {
    return std::optional<TarEntry>();
  }
  TarEntry out;
  out.name = text_of(archive_entry_pathname(entry));
  if (const char* link = archive_entry_hardlink(entry); link != nullptr) {
    out.hard_link = true;
    out.link_target = link;
    return std::optional<TarEntry>(std::move(out));
  }
  const std::optional<Kind> kind = kind_of(entry);
  if (!kind) {
    out.ignored = true;
    return std::optional<TarEntry>(std::move(out));
  }
  out.inode.kind = *kind;
  if (const auto wrong = fill(out.inode, entry)) {
    return Problem{.what = "'" + out.name + "' in " + state_->name + " has " + *wrong,
                   .cure = "the archive is damaged"};
  }
  return std::optional<TarEntry>(std::move(out));
}

Outcome<std::optional<TarReader::Piece>> TarReader::read() {
  const void* data = nullptr;
  std::size_t size = 0;
  la_int64_t offset = 0;
  const int status = archive_read_data_block(state_->reader, &data, &size, &offset);
  if (status == ARCHIVE_EOF) {
    // A sparse member that ends in a hole: libarchive reports where the end is.
    return std::optional<Piece>();
  }
  if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
    return state_->failed();
  }
  return std::optional<Piece>(
      Piece{static_cast<std::uint64_t>(offset), {static_cast<const std::byte*>(data), size}});
}

}  // namespace postern::imagebuild
