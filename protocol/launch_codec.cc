#include "protocol/launch_codec.h"

#include <kj/string.h>

#ifdef __clang__
// Cap'n Proto 0.9 compares `const char*` with kj::StringPtr and counts on the reversed operator==,
// which clang leaves out in C++20 where an operator!= is declared as well (P2468). Before its
// headers.
namespace kj {
inline bool operator==(const char* a, const StringPtr& b) {
  return b == a;
}
}  // namespace kj
#endif

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include <capnp/message.h>
#include <kj/exception.h>

#include "protocol/launch.capnp.h"
#include "protocol/launch_form.h"
#include "protocol/limits.h"

namespace postern {
namespace {

constexpr std::size_t kWordBytes = sizeof(capnp::word);
constexpr std::size_t kTableBytes = 8;  // segment count - 1, size in words: two uint32
constexpr std::size_t kMaxWords = (kMaxRequestBytes - kTableBytes) / kWordBytes;

// The message, its lists, their texts.
constexpr int kNesting = 4;
// A message cannot legitimately be walked more than a few times its own size.
constexpr std::uint64_t kTraversalWords = 8 * kMaxWords;

// KJ turns the trace of an exception into text by running addr2line through the shell (0.9), or
// llvm-symbolizer from PATH (later). So no trace is taken when an exception is made, no exception
// is ever turned into text, and nothing is logged.
// KJ insists that it lies on the stack, where AddressSanitizer does not put the locals of a
// function that it instruments: hence the attribute of encode and decode.
class Quiet final : public kj::ExceptionCallback {
 public:
  void logMessage(kj::LogSeverity /*severity*/,
                  const char* /*file*/,
                  int /*line*/,
                  int /*depth*/,
                  kj::String&& /*text*/) override {}

  StackTraceMode stackTraceMode() override { return StackTraceMode::NONE; }
};

std::optional<std::uint16_t> index_of(std::uint16_t wire) {
  return wire == kNoDescriptor ? std::nullopt : std::optional(wire);
}

// Text of the wire may hold NULs: check_form refuses them where they matter.
std::string string_of(capnp::Text::Reader text) {
  return std::string(text.begin(), text.size());
}

capnp::Text::Reader text_of(const std::string& text) {
  return capnp::Text::Reader(text.c_str(), text.size());
}

void write_mounts(const LaunchRequest& request, wire::Launch::Builder& message) {
  auto mounts = message.initMounts(static_cast<unsigned>(request.mounts.size()));
  for (unsigned i = 0; i < mounts.size(); ++i) {
    const MountRequest& from = request.mounts[i];
    auto to = mounts[i];
    to.setOperation(static_cast<std::uint8_t>(from.operation));
    to.setFlags(from.flags);
    to.setDescriptor(from.descriptor.value_or(kNoDescriptor));
    to.setMode(from.mode);
    to.setSize(from.size);
    if (!from.target.empty()) {
      to.setTarget(text_of(from.target));
    }
  }
}

void write(const LaunchRequest& request, wire::Launch::Builder message) {
  message.setVersion(kWireVersion);
  message.setRoot(static_cast<std::uint8_t>(request.root));
  message.setScratch(static_cast<std::uint8_t>(request.scratch));
  message.setWritableRoot(request.writable_root);
  message.setScratchBytes(request.scratch_bytes);
  message.setUpper(request.upper.value_or(kNoDescriptor));
  message.setVolumeKey(request.volume_key.value_or(kNoDescriptor));
  message.setJoinNet(request.join_net.value_or(kNoDescriptor));
  message.setNamespaces(request.namespaces);
  message.setCapabilities(request.capabilities);
  if (!request.hostname.empty()) {
    message.setHostname(text_of(request.hostname));
  }
  auto layers = message.initLayers(static_cast<unsigned>(request.layers.size()));
  for (unsigned i = 0; i < layers.size(); ++i) {
    layers[i].setKind(static_cast<std::uint8_t>(request.layers[i].kind));
    layers[i].setDescriptor(request.layers[i].descriptor);
  }
  write_mounts(request, message);
  message.setInit(request.init);
  message.setRecord(request.record);
}

LaunchRequest read(wire::Launch::Reader message) {
  LaunchRequest request;
  request.root = static_cast<RootKind>(message.getRoot());
  request.scratch = static_cast<Scratch>(message.getScratch());
  request.writable_root = message.getWritableRoot();
  request.scratch_bytes = message.getScratchBytes();
  request.upper = index_of(message.getUpper());
  request.volume_key = index_of(message.getVolumeKey());
  request.join_net = index_of(message.getJoinNet());
  request.namespaces = message.getNamespaces();
  request.capabilities = message.getCapabilities();
  request.hostname = string_of(message.getHostname());
  for (const auto& layer : message.getLayers()) {
    request.layers.push_back({static_cast<RootKind>(layer.getKind()), layer.getDescriptor()});
  }
  for (const auto& mount : message.getMounts()) {
    request.mounts.push_back({.operation = static_cast<Operation>(mount.getOperation()),
                              .flags = mount.getFlags(),
                              .descriptor = index_of(mount.getDescriptor()),
                              .target = string_of(mount.getTarget()),
                              .mode = mount.getMode(),
                              .size = mount.getSize()});
  }
  request.init = message.getInit();
  request.record = message.getRecord();
  return request;
}

// The segment table of a message of one segment of `words` words.
std::array<std::uint32_t, 2> table_for(std::size_t words) {
  return {0, static_cast<std::uint32_t>(words)};
}

// No message of this request is longer: the root, its lists with their tags, the texts with their
// ends.
std::size_t most_words(const LaunchRequest& request) {
  std::size_t words = 32 + request.hostname.size() / kWordBytes + request.layers.size();
  for (const MountRequest& mount : request.mounts) {
    words += 4 + mount.target.size() / kWordBytes;
  }
  return words;
}

// Empty where the message is too long. May throw.
std::vector<std::byte> serialize(const LaunchRequest& request) {
  auto scratch = kj::heapArray<capnp::word>(most_words(request));
  std::memset(scratch.begin(), 0, scratch.asBytes().size());  // SAFETY: required by the builder
  capnp::MallocMessageBuilder builder(scratch);
  write(request, builder.initRoot<wire::Launch>());
  const auto segments = builder.getSegmentsForOutput();
  if (segments.size() != 1 || segments[0].size() > kMaxWords) {
    return {};
  }
  const auto table = table_for(segments[0].size());
  const auto body = segments[0].asBytes();
  std::vector<std::byte> bytes(kTableBytes + body.size());
  std::memcpy(bytes.data(), table.data(), kTableBytes);
  std::memcpy(bytes.data() + kTableBytes, body.begin(), body.size());
  return bytes;
}

// Counts before anything is copied: a list of zero-sized elements is long at no cost in bytes
// (CVE-2015-2312's class), and traversal limits do not see what the caller then does with it.
bool lists_fit(wire::Launch::Reader message) {
  return message.getLayers().size() <= kMaxLayers && message.getMounts().size() <= kMaxOperations;
}

Result<LaunchRequest, Refusal> parse(std::span<const std::byte> bytes) {
  const Refusal malformed{RefusalCode::kMalformedRequest};
  const std::size_t words = (bytes.size() - kTableBytes) / kWordBytes;
  const auto table = table_for(words);
  if (std::memcmp(bytes.data(), table.data(), kTableBytes) != 0) {
    return malformed;
  }
  // The caller's buffer need not be aligned for words.
  auto body = kj::heapArray<capnp::word>(words);
  std::memcpy(body.begin(), bytes.data() + kTableBytes, words * kWordBytes);
  const kj::ArrayPtr<const capnp::word> segment = body;
  capnp::SegmentArrayMessageReader reader(
      kj::arrayPtr(&segment, 1),
      capnp::ReaderOptions{.traversalLimitInWords = kTraversalWords, .nestingLimit = kNesting});
  const auto message = reader.getRoot<wire::Launch>();
  if (message.getVersion() != kWireVersion) {
    return Refusal{RefusalCode::kProtocolVersion};
  }
  if (!lists_fit(message)) {
    return malformed;
  }
  LaunchRequest request = read(message);
  // What we would have sent is what we got: this refuses unknown fields, hidden and trailing bytes,
  // overlapping and far pointers in one comparison.
  const std::vector<std::byte> again = serialize(request);
  if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) {
    return malformed;
  }
  return request;
}

}  // namespace

[[gnu::no_sanitize_address]] Result<std::vector<std::byte>, Refusal> encode(
    const LaunchRequest& request, std::size_t descriptors) noexcept {
  POSTERN_TRY(check_form(request, descriptors));
  try {
    const Quiet quiet;
    std::vector<std::byte> bytes = serialize(request);
    if (bytes.empty()) {
      return Refusal{RefusalCode::kMalformedRequest};
    }
    return bytes;
  } catch (...) {
    return Refusal{RefusalCode::kMalformedRequest};
  }
}

[[gnu::no_sanitize_address]] Result<LaunchRequest, Refusal> decode(
    std::span<const std::byte> bytes, std::size_t descriptors) noexcept {
  if (bytes.size() <= kTableBytes || bytes.size() > kMaxRequestBytes ||
      bytes.size() % kWordBytes != 0) {
    return Refusal{RefusalCode::kMalformedRequest};
  }
  try {
    const Quiet quiet;
    POSTERN_TRY_ASSIGN(LaunchRequest request, parse(bytes));
    POSTERN_TRY(check_form(request, descriptors));
    return request;
  } catch (...) {  // kj::Exception for what the reader refuses, bad_alloc: both mean no
    return Refusal{RefusalCode::kMalformedRequest};
  }
}

}  // namespace postern
