#include "frontend/sif/sif_command.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/option/option.h"
#include "frontend/sif/print.h"
#include "policy/sif/read_exactly.h"
#include "policy/sif/reader.h"
#include "policy/sif/writer.h"
#include "protocol/base/unique_fd.h"
#include "protocol/exit_codes.h"

namespace postern::sif {
namespace {

struct OpenImage {
  UniqueFd fd;
  Image image;
};

// Names the file, which policy/ does not know.
Problem about(const std::string& path, Problem problem) {
  problem.what = path + ": " + problem.what;
  return problem;
}

Outcome<OpenImage> open_image(const std::string& path) {
  OpenImage opened;
  opened.fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!opened.fd.valid()) {
    return path_problem("opening " + path, errno, "check the path");
  }
  Snapshot bytes(opened.fd.get());
  auto image = read(bytes);
  if (!image) {
    return about(path, image.error());
  }
  opened.image = *std::move(image);
  return opened;
}

Outcome<> print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return system_problem("writing to standard output", errno);
  }
  return Ok{};
}

Outcome<> header(const std::string& path) {
  POSTERN_TRY_ASSIGN(const OpenImage opened, open_image(path));
  return print(header_text(opened.image));
}

Outcome<> list(const std::string& path) {
  POSTERN_TRY_ASSIGN(const OpenImage opened, open_image(path));
  const Header& h = opened.image.header();
  if (h.free == h.total && !opened.image.descriptors().empty()) {
    message::warning(path +
                     ": the header says that the image is empty, which it is not; other "
                     "programs may refuse it");
  }
  return print(list_text(opened.image));
}

Outcome<> info(std::uint32_t id, const std::string& path) {
  POSTERN_TRY_ASSIGN(const OpenImage opened, open_image(path));
  const auto object = opened.image.object(id);
  if (!object) {
    return about(path, object.error());
  }
  return print(info_text(**object));
}

Outcome<> dump(std::uint32_t id, const std::string& path) {
  POSTERN_TRY_ASSIGN(const OpenImage opened, open_image(path));
  const auto object = opened.image.object(id);
  if (!object) {
    return about(path, object.error());
  }
  auto extent = opened.image.extent_of(**object);
  if (!extent) {
    return about(path, extent.error());
  }
  std::vector<std::uint8_t> buffer(1 << 20);
  while (extent->bytes > 0) {
    const std::span part = std::span(buffer).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), extent->bytes)));
    POSTERN_TRY(read_exactly(opened.fd.get(), extent->offset, part, "reading the object"));
    // SAFETY: bytes, as characters.
    POSTERN_TRY(print({reinterpret_cast<const char*>(part.data()), part.size()}));
    extent->offset += part.size();
    extent->bytes -= part.size();
  }
  return Ok{};
}

Outcome<> create(const std::string& path) {
  POSTERN_TRY_ASSIGN(
      Writer writer,
      Writer::create(path, {.deterministic = std::getenv("SOURCE_DATE_EPOCH") != nullptr}));
  return writer.finish();
}

// Opens, changes, brings to disk; problems name the file.
template <class Change>
Outcome<> change(const std::string& path, Change apply) {
  auto writer = Writer::open(path);
  if (!writer) {
    return about(path, writer.error());
  }
  Outcome<> done = apply(*writer);
  if (done) {
    done = writer->finish();
  }
  return done ? Outcome<>{} : about(path, done.error());
}

struct AddOptions {
  std::string image;
  std::string file;
  int datatype = 0;
  int parttype = 0;
  int partfs = 0;
  int partarch = -1;
  int signhash = 0;
  std::string signentity;
  std::string sbomformat;
  std::uint32_t groupid = 0;  // no group, as in Apptainer; a partition without one is not signed
  std::uint32_t link = 0;
  std::int64_t alignment = 0;
  bool alignment_given = false;
  std::string filename;
};

Problem missing(const char* flags, const char* what) {
  return Problem{.what = std::string(flags) + " must be given for " + what};
}

Outcome<SignatureInfo> signature_of(const AddOptions& options) {
  if (options.signhash == 0 || options.signentity.empty()) {
    return missing("--signhash and --signentity", "signatures (--datatype 5)");
  }
  SignatureInfo info{.hash = static_cast<HashType>(options.signhash), .fingerprint = {}};
  const std::string& hex = options.signentity;
  for (std::size_t i = 0; i < kFingerprintBytes && hex.size() == 2 * kFingerprintBytes; ++i) {
    const char* const from = hex.data() + 2 * i;
    const auto [end, error] = std::from_chars(from, from + 2, info.fingerprint[i], 16);
    if (error != std::errc{} || end != from + 2) {
      return Problem{.what = "--signentity: not hexadecimal"};
    }
  }
  if (hex.size() != 2 * kFingerprintBytes) {
    return Problem{.what = "--signentity: a fingerprint has 40 hexadecimal digits"};
  }
  return info;
}

Outcome<Extra> extra_of(DataType type, const AddOptions& options) {
  if (type == DataType::kPartition) {
    if (options.parttype == 0 || options.partfs == 0 || options.partarch < 0) {
      return missing("--parttype, --partfs and --partarch", "partitions (--datatype 4)");
    }
    return Extra{PartitionInfo{.fs = static_cast<FileSystem>(options.partfs),
                               .type = static_cast<PartitionType>(options.parttype),
                               .architecture = static_cast<Architecture>(options.partarch)}};
  }
  if (type == DataType::kSignature) {
    POSTERN_TRY_ASSIGN(const SignatureInfo info, signature_of(options));
    return Extra{info};
  }
  if (type == DataType::kSbom) {
    SbomInfo info{};
    if (!parse_name(options.sbomformat, info.format)) {
      return missing(
          "--sbomformat (cyclonedx-json, cyclonedx-xml, github-json, spdx-json, spdx-rdf, "
          "spdx-tag-value, spdx-yaml or syft-json)",
          "SBOMs (--datatype 9)");
    }
    return Extra{info};
  }
  if (type == DataType::kCryptoMessage) {
    return Extra{MessageInfo{}};  // there is no flag for its format, in other tools neither
  }
  return Extra{};
}

Outcome<> add(const AddOptions& options) {
  ObjectInput input;
  input.type =
      static_cast<DataType>(static_cast<int>(DataType::kDefinition) + options.datatype - 1);
  POSTERN_TRY_ASSIGN(input.extra, extra_of(input.type, options));
  const bool from_stdin = options.file == "-";
  const std::string base = options.file.substr(options.file.rfind('/') + 1);
  input.name = !options.filename.empty() ? options.filename : from_stdin ? "" : base;
  input.group = options.groupid;
  input.link = options.link;
  if (options.alignment_given) {
    input.alignment = options.alignment;
  }
  const UniqueFd source(from_stdin ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                                   : ::open(options.file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!source.valid()) {
    return path_problem("opening " + options.file, errno, "check the path");
  }
  return change(options.image, [&](Writer& writer) -> Outcome<> {
    POSTERN_TRY(writer.add(input, source.get()));
    return Ok{};
  });
}

// Sub-commands and, as bits, who has which option.
enum : option::CommandSet { kAdd = 1, kOther = 2 };

// clang-format off
constexpr auto kOptions = std::to_array<option::Option>({
    {"alignment", 0, "", option::Kind::kText, kAdd, "BYTES", "alignment of the data [4096 for partitions, else none]"},
    {"datatype", 0, "", option::Kind::kText, kAdd, "N",
     "1 definition, 2 environment, 3 labels, 4 partition, 5 signature, 6 JSON, 7 generic, "
     "8 cryptographic message, 9 SBOM, 10 OCI root index, 11 OCI blob (required)"},
    {"filename", 0, "", option::Kind::kText, kAdd, "NAME", "name of the object [name of the file]"},
    {"groupid", 0, "", option::Kind::kText, kAdd, "N", "group of the object, 0 = none [0]; signatures cover groups"},
    {"help", 'h', "", option::Kind::kFlag, kAdd | kOther, "", "show this text"},
    {"link", 0, "", option::Kind::kText, kAdd, "N", "object that this one belongs to, 0 = none [0]"},
    {"partarch", 0, "", option::Kind::kText, kAdd, "N",
     "partitions: 0 unknown, 1 386, 2 amd64, 3 arm, 4 arm64, 5 ppc64, 6 ppc64le, 7 mips, 8 mipsle, "
     "9 mips64, 10 mips64le, 11 s390x, 12 riscv64, 13 loong64"},
    {"partfs", 0, "", option::Kind::kText, kAdd, "N", "partitions: 1 squashfs, 2 ext3, 3 immutable objects, 4 raw"},
    {"parttype", 0, "", option::Kind::kText, kAdd, "N", "partitions: 1 system, 2 primary system, 3 data, 4 overlay"},
    {"sbomformat", 0, "", option::Kind::kText, kAdd, "FORMAT",
     "SBOMs: cyclonedx-json, cyclonedx-xml, github-json, spdx-json, spdx-rdf, spdx-tag-value, spdx-yaml, syft-json"},
    {"signentity", 0, "", option::Kind::kText, kAdd, "HEX", "signatures: fingerprint of the key, 40 hexadecimal digits"},
    {"signhash", 0, "", option::Kind::kText, kAdd, "N",
     "signatures: 1 SHA256, 2 SHA384, 3 SHA512, 4 BLAKE2s_256, 5 BLAKE2b_256"},
});

struct Command {
  std::string_view name;
  std::string_view arguments;
  std::size_t positional;
  std::string_view about;
};

constexpr auto kCommands = std::to_array<Command>({
    {"header", "IMAGE", 1, "Display the global header of a SIF image"},
    {"list", "IMAGE", 1, "List the objects of a SIF image"},
    {"info", "ID IMAGE", 2, "Display one descriptor of a SIF image"},
    {"dump", "ID IMAGE", 2, "Write the data of one object to standard output"},
    {"new", "IMAGE", 1, "Create an empty SIF image"},
    {"add", "[OPTIONS] IMAGE FILE", 2, "Add a data object (FILE - is standard input) to a SIF image"},
    {"del", "ID IMAGE", 2, "Delete an object from a SIF image"},
    {"setprim", "ID IMAGE", 2, "Make a system partition the primary one"},
});
// clang-format on

Problem usage_error(std::string what) {
  return Problem{.what = std::move(what), .exit_code = kExitUsage};
}

std::string usage(const Command* command) {
  if (command != nullptr) {
    const option::CommandSet set = command->name == "add" ? kAdd : kOther;
    return "Usage: postern sif " + std::string(command->name) + " " +
           std::string(command->arguments) + "\n\n" + std::string(command->about) + "\n\n" +
           option::describe(kOptions, set);
  }
  std::string text =
      "Usage: postern sif COMMAND ...\n\nLook into SIF images and change them.\n\nCommands:\n";
  for (const Command& c : kCommands) {
    const std::string words = std::string(c.name) + " " + std::string(c.arguments);
    text += "  " + words + std::string(words.size() < 28 ? 28 - words.size() : 1, ' ') +
            std::string(c.about) + "\n";
  }
  return text;
}

// A decimal number in [least, most].
template <class T>
Outcome<T> number(std::string_view what, std::string_view text, T least, T most) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
    return usage_error(std::string(what) + ": '" + std::string(text) + "' is not a number from " +
                       std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

// Sets `out` where the option was given.
template <class T>
Outcome<> take(const option::Arguments& given, std::string_view option, T least, T most, T& out) {
  if (given.given(option)) {
    POSTERN_TRY_ASSIGN(out, number("--" + std::string(option), given.text(option), least, most));
  }
  return Ok{};
}

Outcome<AddOptions> add_options(const option::Arguments& given) {
  AddOptions o;
  o.image = given.positional()[0];
  o.file = given.positional()[1];
  POSTERN_TRY(take(given, "datatype", 1, 11, o.datatype));
  if (o.datatype == 0) {
    return usage_error("--datatype must be given");
  }
  POSTERN_TRY(take(given, "parttype", 1, 4, o.parttype));
  POSTERN_TRY(take(given, "partfs", 1, 4, o.partfs));
  POSTERN_TRY(take(given, "partarch", 0, int(Architecture::kCount_) - 1, o.partarch));
  POSTERN_TRY(take(given, "signhash", 1, 5, o.signhash));
  POSTERN_TRY(take<std::uint32_t>(given, "groupid", 0, ~kGroupMask, o.groupid));
  POSTERN_TRY(take<std::uint32_t>(given, "link", 0, ~kGroupMask, o.link));
  POSTERN_TRY(take<std::int64_t>(given, "alignment", 0, 1LL << 40, o.alignment));
  o.alignment_given = given.given("alignment");
  o.signentity = given.text("signentity");
  o.sbomformat = given.text("sbomformat");
  o.filename = given.text("filename");
  return o;
}

Outcome<> perform(const Command& command, const option::Arguments& given) {
  if (given.positional().size() != command.positional) {
    return usage_error("`sif " + std::string(command.name) + "` takes " +
                       std::to_string(command.positional) + " argument" +
                       (command.positional == 1 ? "" : "s"));
  }
  if (command.name == "add") {
    POSTERN_TRY_ASSIGN(const AddOptions options, add_options(given));
    return add(options);
  }
  const std::string& path = given.positional().back();
  if (command.name == "header") {
    return header(path);
  }
  if (command.name == "list") {
    return list(path);
  }
  if (command.name == "new") {
    return create(path);
  }
  POSTERN_TRY_ASSIGN(const std::uint32_t id,
                     number<std::uint32_t>("object id", given.positional()[0], 0, UINT32_MAX));
  if (command.name == "info") {
    return info(id, path);
  }
  if (command.name == "dump") {
    return dump(id, path);
  }
  if (command.name == "del") {
    return change(path, [&](Writer& writer) { return writer.remove(id); });
  }
  return change(path, [&](Writer& writer) { return writer.set_primary(id); });
}

// One line, and the usage where that is what was wrong. Every error of these commands exits 1.
int fail(const Problem& problem, const Command* command) {
  message::error(problem.what + (problem.cure.empty() ? "" : "; " + problem.cure));
  if (problem.exit_code == kExitUsage) {
    std::fputs(usage(command).c_str(), stderr);
  }
  return kExitUsage;
}

}  // namespace

int sif_command(std::span<const std::string> args) {
  if (args.empty()) {
    return fail(usage_error("a sub-command is missing"), nullptr);
  }
  const std::string_view name = args.front();
  if (name == "-h" || name == "--help" || name == "help") {
    std::fputs(usage(nullptr).c_str(), stdout);
    return 0;
  }
  const auto* command = std::find_if(kCommands.begin(), kCommands.end(),
                                     [&](const Command& c) { return c.name == name; });
  if (command == kCommands.end()) {
    return fail(usage_error("unknown sub-command '" + std::string(name) + "'"), nullptr);
  }
  const std::vector<std::string> words(args.begin() + 1, args.end());
  constexpr std::array<const char*, 1> kNoEnvironment{nullptr};  // these options have no keys
  const auto given =
      option::parse(kOptions, name == "add" ? kAdd : kOther, words, kNoEnvironment.data(), false);
  if (!given) {
    return fail(given.error(), command);
  }
  if (given->given("help")) {
    std::fputs(usage(command).c_str(), stdout);
    return 0;
  }
  const Outcome<> done = perform(*command, *given);
  return done ? 0 : fail(done.error(), command);
}

}  // namespace postern::sif
