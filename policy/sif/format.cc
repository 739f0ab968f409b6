#include "policy/sif/format.h"

#include <algorithm>

namespace postern::sif {
namespace {

template <class T>
struct Name {
  T value;
  std::string_view name;
};

template <class T, std::size_t N>
std::string_view find(const std::array<Name<T>, N>& names, T value, std::string_view otherwise) {
  const auto* it = std::find_if(names.begin(), names.end(),
                                [&](const Name<T>& entry) { return entry.value == value; });
  return it == names.end() ? otherwise : it->name;
}

template <class T, std::size_t N>
bool parse(const std::array<Name<T>, N>& names, std::string_view name, T& out) {
  const auto* it = std::find_if(names.begin(), names.end(),
                                [&](const Name<T>& entry) { return entry.name == name; });
  if (it == names.end()) {
    return false;
  }
  out = it->value;
  return true;
}

constexpr auto kDataTypes = std::to_array<Name<DataType>>({
    {DataType::kDefinition, "Def.FILE"},
    {DataType::kEnvironment, "Env.Vars"},
    {DataType::kLabels, "JSON.Labels"},
    {DataType::kPartition, "FS"},
    {DataType::kSignature, "Signature"},
    {DataType::kGenericJson, "JSON.Generic"},
    {DataType::kGeneric, "Generic/Raw"},
    {DataType::kCryptoMessage, "Cryptographic Message"},
    {DataType::kSbom, "SBOM"},
    {DataType::kOciRootIndex, "OCI.RootIndex"},
    {DataType::kOciBlob, "OCI.Blob"},
});

constexpr auto kFileSystems = std::to_array<Name<FileSystem>>({
    {FileSystem::kSquashfs, "Squashfs"},
    {FileSystem::kExt3, "Ext3"},
    {FileSystem::kArchive, "Archive"},
    {FileSystem::kRaw, "Raw"},
    {FileSystem::kLuksSquashfs, "Encrypted squashfs"},
    {FileSystem::kGocryptfsSquashfs, "Gocryptfs squashfs"},
});

// The asterisk marks the one that is run.
constexpr auto kPartitionTypes = std::to_array<Name<PartitionType>>({
    {PartitionType::kSystem, "System"},
    {PartitionType::kPrimarySystem, "*System"},
    {PartitionType::kData, "Data"},
    {PartitionType::kOverlay, "Overlay"},
});

constexpr auto kHashTypes = std::to_array<Name<HashType>>({
    {HashType::kSha256, "SHA-256"},
    {HashType::kSha384, "SHA-384"},
    {HashType::kSha512, "SHA-512"},
    {HashType::kBlake2s256, "BLAKE2s-256"},
    {HashType::kBlake2b256, "BLAKE2b-256"},
});

constexpr auto kMessageFormats = std::to_array<Name<MessageFormat>>({
    {MessageFormat::kOpenPgp, "OpenPGP"},
    {MessageFormat::kPem, "PEM"},
});

constexpr auto kMessageTypes = std::to_array<Name<MessageType>>({
    {MessageType::kClearSignature, "Clear Signature"},
    {MessageType::kRsaOaep, "RSA-OAEP"},
});

constexpr auto kSbomFormats = std::to_array<Name<SbomFormat>>({
    {SbomFormat::kCycloneDxJson, "cyclonedx-json"},
    {SbomFormat::kCycloneDxXml, "cyclonedx-xml"},
    {SbomFormat::kGithubJson, "github-json"},
    {SbomFormat::kSpdxJson, "spdx-json"},
    {SbomFormat::kSpdxRdf, "spdx-rdf"},
    {SbomFormat::kSpdxTagValue, "spdx-tag-value"},
    {SbomFormat::kSpdxYaml, "spdx-yaml"},
    {SbomFormat::kSyftJson, "syft-json"},
});

constexpr auto kArchitectures = std::to_array<Name<Architecture>>({
    {Architecture::kUnknown, "unknown"},
    {Architecture::k386, "386"},
    {Architecture::kAmd64, "amd64"},
    {Architecture::kArm, "arm"},
    {Architecture::kArm64, "arm64"},
    {Architecture::kPpc64, "ppc64"},
    {Architecture::kPpc64le, "ppc64le"},
    {Architecture::kMips, "mips"},
    {Architecture::kMipsle, "mipsle"},
    {Architecture::kMips64, "mips64"},
    {Architecture::kMips64le, "mips64le"},
    {Architecture::kS390x, "s390x"},
    {Architecture::kRiscv64, "riscv64"},
    {Architecture::kLoong64, "loong64"},
});
static_assert(kArchitectures.size() == std::size_t(Architecture::kCount_),
              "one row per architecture");

}  // namespace

std::string_view name_of(DataType type) noexcept {
  return find(kDataTypes, type, "Unknown");
}

std::string_view name_of(FileSystem fs) noexcept {
  return find(kFileSystems, fs, "Unknown");
}

std::string_view name_of(PartitionType type) noexcept {
  return find(kPartitionTypes, type, "Unknown");
}

std::string_view name_of(HashType hash) noexcept {
  return find(kHashTypes, hash, "Unknown");
}

std::string_view name_of(MessageFormat format) noexcept {
  return find(kMessageFormats, format, "Unknown");
}

std::string_view name_of(MessageType type) noexcept {
  return find(kMessageTypes, type, "Unknown");
}

std::string_view name_of(SbomFormat format) noexcept {
  return find(kSbomFormats, format, "Unknown");
}

std::string_view name_of(Architecture architecture) noexcept {
  return find(kArchitectures, architecture, "unknown");
}

bool parse_name(std::string_view name, SbomFormat& out) noexcept {
  return parse(kSbomFormats, name, out);
}

bool parse_name(std::string_view name, Architecture& out) noexcept {
  return parse(kArchitectures, name, out);
}

Architecture architecture_from_code(std::string_view code) noexcept {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (code.size() != 3 || !digit(code[0]) || !digit(code[1]) || code[2] != '\0') {
    return Architecture::kUnknown;
  }
  const int value = (code[0] - '0') * 10 + (code[1] - '0');
  return value < int(Architecture::kCount_) ? static_cast<Architecture>(value)
                                            : Architecture::kUnknown;
}

std::array<char, 3> architecture_code(Architecture architecture) noexcept {
  const int value = int(architecture);
  return {static_cast<char>('0' + value / 10), static_cast<char>('0' + value % 10), '\0'};
}

Architecture host_architecture() noexcept {
#if defined(__x86_64__)
  return Architecture::kAmd64;
#elif defined(__i386__)
  return Architecture::k386;
#elif defined(__aarch64__)
  return Architecture::kArm64;
#elif defined(__arm__)
  return Architecture::kArm;
#elif defined(__powerpc64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return Architecture::kPpc64le;
#elif defined(__powerpc64__)
  return Architecture::kPpc64;
#elif defined(__mips64) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return Architecture::kMips64le;
#elif defined(__mips64)
  return Architecture::kMips64;
#elif defined(__mips__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return Architecture::kMipsle;
#elif defined(__mips__)
  return Architecture::kMips;
#elif defined(__s390x__)
  return Architecture::kS390x;
#elif defined(__riscv) && __riscv_xlen == 64
  return Architecture::kRiscv64;
#elif defined(__loongarch64)
  return Architecture::kLoong64;
#else
  return Architecture::kUnknown;
#endif
}

}  // namespace postern::sif
