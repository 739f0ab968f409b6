#include "frontend/sif/sif_command.h"

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>

#include "frontend/message/message.h"
#include "frontend/sif/print.h"
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
    return system_problem("opening " + path, errno);
  }
  auto image = read(opened.fd.get());
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
    message::warning(path + ": the header says that the image is empty, which it is not; other "
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
  // Apptainer's default is 0, no group; but verifying a whole image fails on objects without one.
  std::uint32_t groupid = 1;
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
      return missing("--sbomformat (cyclonedx-json, cyclonedx-xml, github-json, spdx-json, spdx-rdf, "
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
  input.type = static_cast<DataType>(static_cast<int>(DataType::kDefinition) + options.datatype - 1);
  POSTERN_TRY_ASSIGN(input.extra, extra_of(input.type, options));
  const bool from_stdin = options.file == "-";
  const std::string base = options.file.substr(options.file.rfind('/') + 1);
  input.name = !options.filename.empty() ? options.filename : from_stdin ? "" : base;
  input.group = options.groupid;
  input.link = options.link;
  if (options.alignment_given) {
    input.alignment = options.alignment;
  }
  const UniqueFd source(from_stdin
                            ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                            : ::open(options.file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!source.valid()) {
    return system_problem("opening " + options.file, errno);
  }
  return change(options.image, [&](Writer& writer) -> Outcome<> {
    POSTERN_TRY(writer.add(input, source.get()));
    return Ok{};
  });
}

// The command line. CLI11 throws on wrong ones; run() catches.
class CommandLine {
 public:
  CommandLine() {
    app_.require_subcommand(1);
    file_only("header", "Display the global header of a SIF image");
    file_only("list", "List the objects of a SIF image");
    file_only("new", "Create an empty SIF image");
    with_id("info", "Display one descriptor of a SIF image");
    with_id("dump", "Write the data of one object to standard output");
    with_id("del", "Delete an object from a SIF image");
    with_id("setprim", "Make a system partition the primary one");
    add_command();
  }

  Outcome<> run(std::vector<std::string>& reversed) {
    app_.parse(reversed);
    const std::string name = app_.get_subcommands().front()->get_name();
    if (name == "header") {
      return header(path_);
    }
    if (name == "list") {
      return list(path_);
    }
    if (name == "new") {
      return create(path_);
    }
    if (name == "info") {
      return info(id_, path_);
    }
    if (name == "dump") {
      return dump(id_, path_);
    }
    if (name == "del") {
      return change(path_, [&](Writer& writer) { return writer.remove(id_); });
    }
    if (name == "setprim") {
      return change(path_, [&](Writer& writer) { return writer.set_primary(id_); });
    }
    add_.alignment_given = alignment_->count() > 0;
    return add(add_);
  }

  // Prints help (status 0) or what was wrong (status 1).
  int explain(const CLI::ParseError& error) {
    const CLI::App* where = &app_;
    if (!app_.get_subcommands().empty()) {
      where = app_.get_subcommands().front();
    }
    if (error.get_exit_code() == 0) {
      std::fputs(where->help("postern").c_str(), stdout);
      return 0;
    }
    message::error(error.what());
    std::fputs(where->help("postern").c_str(), stderr);
    return kExitUsage;
  }

 private:
  void file_only(const char* name, const char* about) {
    app_.add_subcommand(name, about)->add_option("sif_path", path_, "The image")->required();
  }

  void with_id(const char* name, const char* about) {
    CLI::App* command = app_.add_subcommand(name, about);
    command->add_option("id", id_, "Id of the object (shown by `sif list`)")->required();
    command->add_option("sif_path", path_, "The image")->required();
  }

  void add_command() {
    CLI::App* c = app_.add_subcommand("add", "Add a data object to a SIF image");
    c->add_option("sif_path", add_.image, "The image")->required();
    c->add_option("object_path", add_.file, "File with the data; - is standard input")->required();
    c->add_option("--datatype", add_.datatype,
                  "1 definition, 2 environment, 3 labels, 4 partition, 5 signature, 6 JSON, "
                  "7 generic, 8 cryptographic message, 9 SBOM, 10 OCI root index, 11 OCI blob")
        ->required()
        ->check(CLI::Range(1, 11));
    c->add_option("--parttype", add_.parttype, "1 system, 2 primary system, 3 data, 4 overlay")
        ->check(CLI::Range(1, 4));
    c->add_option("--partfs", add_.partfs, "1 squashfs, 2 ext3, 3 immutable objects, 4 raw")
        ->check(CLI::Range(1, 4));
    c->add_option("--partarch", add_.partarch,
                  "0 unknown, 1 386, 2 amd64, 3 arm, 4 arm64, 5 ppc64, 6 ppc64le, 7 mips, 8 mipsle, "
                  "9 mips64, 10 mips64le, 11 s390x, 12 riscv64, 13 loong64")
        ->check(CLI::Range(0, int(Architecture::kCount_) - 1));
    c->add_option("--signhash", add_.signhash,
                  "1 SHA256, 2 SHA384, 3 SHA512, 4 BLAKE2s_256, 5 BLAKE2b_256")
        ->check(CLI::Range(1, 5));
    c->add_option("--signentity", add_.signentity, "Fingerprint of the signing key, 40 hex digits");
    c->add_option("--sbomformat", add_.sbomformat, "Format of the SBOM, for instance spdx-json");
    c->add_option("--groupid", add_.groupid, "Group of the object, 0 = none [1]");
    c->add_option("--link", add_.link, "Object that this one belongs to, 0 = none [0]");
    alignment_ = c->add_option("--alignment", add_.alignment,
                               "Alignment in bytes [4096 for partitions, else none]");
    c->add_option("--filename", add_.filename, "Name of the object [name of the file]");
  }

  CLI::App app_{"Look into SIF images and change them", "sif"};
  std::string path_;
  std::uint32_t id_ = 0;
  AddOptions add_;
  CLI::Option* alignment_ = nullptr;
};

}  // namespace

int sif_command(std::span<char* const> args) {
  try {
    CommandLine line;
    std::vector<std::string> reversed(args.rbegin(), args.rend());  // CLI11 wants the last one first
    try {
      const Outcome<> done = line.run(reversed);
      if (!done) {
        const Problem& problem = done.error();
        message::error(problem.what + (problem.cure.empty() ? "" : "; " + problem.cure));
        return kExitUsage;
      }
      return 0;
    } catch (const CLI::ParseError& error) {
      return line.explain(error);
    }
  } catch (const std::exception& error) {
    message::error(error.what());
    return kExitUsage;
  }
}

}  // namespace postern::sif
