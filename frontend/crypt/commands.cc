#include "frontend/crypt/commands.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/crypt/cipher.h"
#include "frontend/crypt/container.h"
#include "frontend/crypt/gocryptfs.h"
#include "frontend/crypt/rsa.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "policy/image/image.h"
#include "policy/seal/cover.h"
#include "policy/seal/seal.h"
#include "policy/sif/reader.h"
#include "policy/sif/writer.h"
#include "policy/write_problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::crypt {
namespace {

constexpr std::uint32_t kSectorBytes =
    4096;  // eight times fewer IVs than 512; dm-crypt and LUKS2 take both
constexpr std::size_t kSecretBytes = 64;  // of a secret that is wrapped with RSA
constexpr std::uint64_t kMaxMessageBytes = 64 * 1024;
constexpr std::uint64_t kCopyBytes = 256 * 1024;
constexpr std::string_view kSealPrefix = "postern.seal";

struct OpenImage {
  UniqueFd file;
  std::unique_ptr<Snapshot> bytes;
  image::ImageInfo info;
};

Outcome<OpenImage> identify(UniqueFd file, const std::string& name) {
  OpenImage opened;
  opened.file = std::move(file);
  if (!opened.file.valid()) {
    return path_problem("opening " + name, errno, "check the path");
  }
  opened.bytes = std::make_unique<Snapshot>(opened.file.get());
  auto info = image::identify(*opened.bytes);
  if (!info) {
    Problem problem = std::move(info).error();
    problem.what = name + ": " + problem.what;
    return problem;
  }
  opened.info = *std::move(info);
  if (!opened.info.sif) {
    return Problem{.what = name + " is not a SIF image",
                   .cure = "make one with `postern build --encrypt`"};
  }
  return opened;
}

// A named pipe in its place is not waited for.
UniqueFd open_file(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
}

Outcome<OpenImage> open_image(const std::string& path) {
  return identify(open_file(path), path);
}

// The same of an image whose root is a gocryptfs container, which identify() does not take; else
// nothing.
std::optional<OpenImage> open_container(const std::string& path) {
  OpenImage opened;
  opened.file = open_file(path);
  if (!opened.file.valid()) {
    return std::nullopt;
  }
  opened.bytes = std::make_unique<Snapshot>(opened.file.get());
  auto root = image::find_gocryptfs_root(*opened.bytes);
  if (!root) {
    return std::nullopt;
  }
  opened.info.extent = root->extent;
  opened.info.root_object = root->object;
  opened.info.sif = std::move(root->sif);
  return opened;
}

SecretBytes random_secret(std::size_t size) {
  SecretBytes secret(size);
  POSTERN_CHECK(::getrandom(secret.bytes().data(), size, 0) == static_cast<ssize_t>(size));
  return secret;
}

Outcome<KeyMaterial> need_key(const KeyOptions& options, bool use_environment, bool confirm) {
  POSTERN_TRY_ASSIGN(auto material, gather_key(options, use_environment, confirm));
  if (!material) {
    return Problem{
        .what = "no key was given for an encrypted image",
        .cure =
            "use --passphrase, --passphrase-file, --passphrase-fd, --pem-path or --key-command"};
  }
  return *std::move(material);
}

// Messages that wrap a secret for the partition `object`, in table order.
std::vector<const sif::Descriptor*> wrapped_keys(const sif::Image& image, std::uint32_t object) {
  std::vector<const sif::Descriptor*> found;
  for (const sif::Descriptor& descriptor : image.descriptors()) {
    const sif::MessageInfo* message = descriptor.message();
    if (message != nullptr && message->format == sif::MessageFormat::kPem &&
        message->type == sif::MessageType::kRsaOaep && !descriptor.link_is_group &&
        descriptor.link == object) {
      found.push_back(&descriptor);
    }
  }
  return found;
}

struct OpenedImage {
  LuksHeader::Opened luks;
  std::uint32_t message = 0;  // the object that held the wrapped secret; 0 for a passphrase
};

Outcome<OpenedImage> open_with(const LuksHeader& header,
                               const OpenImage& image,
                               const KeyMaterial& material,
                               const KdfLimits& limits) {
  if (!material.pem) {
    POSTERN_TRY_ASSIGN(LuksHeader::Opened luks, header.unlock(material.bytes.bytes(), limits));
    return OpenedImage{.luks = std::move(luks)};
  }
  Problem last{.what = "the image holds no key that was wrapped for an RSA key",
               .cure = "it was encrypted with a passphrase"};
  for (const sif::Descriptor* message : wrapped_keys(*image.info.sif, image.info.root_object)) {
    POSTERN_TRY_ASSIGN(const std::string text,
                       sif::read_object(*image.bytes, *image.info.sif, *message, kMaxMessageBytes));
    auto secret = unwrap_secret(text, material.bytes, material.name);
    if (!secret) {
      last = std::move(secret).error();
      continue;
    }
    // A rekey that was interrupted may leave a message whose slot is not there (yet, or any more).
    auto luks = header.unlock(secret->bytes(), limits);
    if (luks) {
      return OpenedImage{.luks = *std::move(luks), .message = message->id};
    }
    last = std::move(luks).error();
  }
  return last;
}

// A secret that opens the image, and how it travels with the image where it is wrapped.
struct NewSecret {
  SecretBytes bytes;
  bool full_entropy = false;
  std::string message;  // PEM "MESSAGE", empty for a passphrase
};

Outcome<NewSecret> new_secret(KeyMaterial material) {
  if (!material.pem) {
    return NewSecret{.bytes = std::move(material.bytes), .full_entropy = false, .message = {}};
  }
  NewSecret secret{.bytes = random_secret(kSecretBytes), .full_entropy = true, .message = {}};
  POSTERN_TRY_ASSIGN(
      secret.message,
      wrap_secret(secret.bytes.bytes(), std::string(material.bytes.chars(), material.bytes.size()),
                  material.name));
  return secret;
}

sif::ObjectInput message_object(std::uint32_t group, std::uint32_t partition) {
  return sif::ObjectInput{.type = sif::DataType::kCryptoMessage,
                          .name = "",
                          .group = group,
                          .link = partition,
                          .extra = sif::MessageInfo{.format = sif::MessageFormat::kPem,
                                                    .type = sif::MessageType::kRsaOaep}};
}

bool is_seal(const sif::Descriptor& descriptor) {
  return descriptor.name.starts_with(kSealPrefix);
}

// Copies [from_offset, +bytes); runs of zeros become holes.
Outcome<Ok> copy_bytes(
    int from, std::uint64_t from_offset, int to, std::uint64_t to_offset, std::uint64_t bytes) {
  std::vector<char> buffer(kCopyBytes);
  while (bytes > 0) {
    const std::size_t wanted =
        static_cast<std::size_t>(std::min<std::uint64_t>(bytes, buffer.size()));
    const ssize_t got = ::pread(from, buffer.data(), wanted, static_cast<off_t>(from_offset));
    if (got <= 0) {
      return got < 0 ? system_problem("reading the image", errno)
                     : Problem{.what = "the image ends inside an object"};
    }
    const auto size = static_cast<std::size_t>(got);
    const bool zeros =
        std::all_of(buffer.begin(), buffer.begin() + got, [](char c) { return c == 0; });
    if (!zeros && ::pwrite(to, buffer.data(), size, static_cast<off_t>(to_offset)) != got) {
      return write_problem("writing the image", errno, "name an output in another place");
    }
    from_offset += size;
    to_offset += size;
    bytes -= size;
  }
  return Ok{};
}

// Copies every object but the root partition, signatures, seals and wrapped keys; `root` writes the
// root partition and returns its id.
template <class WriteRoot>
Outcome<std::uint32_t> copy_image(const OpenImage& source, sif::Writer& writer, WriteRoot&& root) {
  const sif::Image& image = *source.info.sif;
  std::map<std::uint32_t, std::uint32_t> renumbered;
  std::uint32_t root_id = 0;
  bool dropped = false;
  for (const sif::Descriptor& object : image.descriptors()) {
    if (object.type == sif::DataType::kSignature || is_seal(object)) {
      dropped = true;
      continue;
    }
    if (object.type == sif::DataType::kCryptoMessage && object.link == source.info.root_object &&
        !object.link_is_group) {
      continue;
    }
    const auto moved = renumbered.find(object.link);
    sif::ObjectInput input{
        .type = object.type,
        .name = object.name,
        .group = object.group,
        .link = !object.link_is_group && moved != renumbered.end() ? moved->second : object.link,
        .link_is_group = object.link_is_group,
        .extra = object.extra};
    if (object.id == source.info.root_object) {
      POSTERN_TRY_ASSIGN(root_id, root(object, std::move(input)));
      renumbered[object.id] = root_id;
      continue;
    }
    POSTERN_TRY_ASSIGN(const sif::Extent extent, image.extent_of(object));
    POSTERN_TRY_ASSIGN(const std::uint64_t at, writer.begin(input));
    POSTERN_TRY(copy_bytes(source.file.get(), extent.offset, writer.fd(), at, extent.bytes));
    POSTERN_TRY_ASSIGN(renumbered[object.id], writer.end(extent.bytes));
  }
  if (dropped) {
    message::warning(
        "signatures and seals cover the old bytes and were left out; sign the new image again");
  }
  return root_id;
}

// Whoever could not read the source cannot read the copy.
Outcome<sif::Writer> create_output(const ConvertOptions& options, const OpenImage& input) {
  const sif::Image& source = *input.info.sif;
  struct stat status{};
  if (::fstat(input.file.get(), &status) != 0) {
    return system_problem("reading the mode of " + options.input, errno);
  }
  if (!options.force && ::access(options.output.c_str(), F_OK) == 0) {
    return Problem{.what = options.output + " already exists", .cure = "--force replaces it"};
  }
  sif::CreateOptions create;
  create.mode = status.st_mode & 0777;
  create.launch = source.header().launch;
  create.capacity = std::max<std::int64_t>(source.header().total, sif::kDefaultCapacity);
  return sif::Writer::create(options.output, create);
}

}  // namespace

Outcome<Ok> encrypt(const ConvertOptions& options) {
  POSTERN_TRY_ASSIGN(const OpenImage source, open_image(options.input));
  if (source.info.encrypted) {
    return Problem{.what = "the image is encrypted already",
                   .cure = "`postern rekey` changes its keys"};
  }
  POSTERN_TRY_ASSIGN(KeyMaterial material, need_key(options.key, true, true));
  POSTERN_TRY_ASSIGN(const NewSecret secret, new_secret(std::move(material)));
  const SecretBytes volume_key = random_secret(kVolumeKeyBytes);

  const std::uint64_t data_bytes =
      (source.info.extent.bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  POSTERN_TRY_ASSIGN(LuksHeader header,
                     LuksHeader::format(data_bytes, kSectorBytes, volume_key.bytes()));
  POSTERN_TRY(header.add_secret(volume_key.bytes(), secret.bytes.bytes(), secret.full_entropy));

  POSTERN_TRY_ASSIGN(sif::Writer writer, create_output(options, source));
  std::uint32_t group = 1;
  POSTERN_TRY_ASSIGN(
      const std::uint32_t partition,
      copy_image(
          source, writer,
          [&](const sif::Descriptor& object, sif::ObjectInput input) -> Outcome<std::uint32_t> {
            group = object.group;
            std::get<sif::PartitionInfo>(input.extra).fs = sif::FileSystem::kLuksSquashfs;
            POSTERN_TRY_ASSIGN(const std::uint64_t at, writer.begin(input));
            const std::uint64_t data_offset = header.geometry().data_offset;
            POSTERN_TRY(copy_bytes(header.file(), 0, writer.fd(), at, data_offset));
            message::Progress progress("Encrypting", data_bytes);
            POSTERN_TRY(run_cipher(CipherJob{.key = volume_key.bytes(),
                                             .sector_bytes = kSectorBytes,
                                             .from = source.file.get(),
                                             .from_offset = source.info.extent.offset,
                                             .from_bytes = source.info.extent.bytes,
                                             .to = writer.fd(),
                                             .to_offset = at + data_offset},
                                   Direction::kEncrypt,
                                   [&](std::uint64_t done) { progress.advance(done); }));
            return writer.end(data_offset + data_bytes);
          }));
  if (!secret.message.empty()) {
    POSTERN_TRY(writer.add(message_object(group, partition), std::string_view(secret.message)));
  }
  return writer.finish();
}

namespace {

Outcome<Ok> hand_over(int out, std::span<const std::byte> key) {
  if (::pwrite(out, key.data(), key.size(), 0) != static_cast<ssize_t>(key.size()) ||
      ::fcntl(out, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    return system_problem("handing over the volume key", errno);
  }
  return Ok{};
}

// The passphrase of the container in the partition `root`, which a message of the image wraps where
// the key is an RSA key.
Outcome<SecretBytes> passphrase_of(Snapshot& bytes,
                                   const sif::Image& image,
                                   std::uint32_t root,
                                   KeyMaterial material) {
  if (!material.pem) {
    return std::move(material.bytes);
  }
  const auto messages = wrapped_keys(image, root);
  if (messages.empty()) {
    return Problem{.what = "the image holds no key that was wrapped for an RSA key",
                   .cure = "it was encrypted with a passphrase"};
  }
  POSTERN_TRY_ASSIGN(const std::string text,
                     sif::read_object(bytes, image, *messages.front(), kMaxMessageBytes));
  return unwrap_secret(text, material.bytes, material.name);
}

// `file`: of its gocryptfs.conf.
Outcome<SecretBytes> container_key(int file,
                                   std::span<const std::byte> passphrase,
                                   const KdfLimits& limits) {
  std::string configuration(kMaxMessageBytes, '\0');
  const ssize_t got = ::pread(file, configuration.data(), configuration.size(), 0);
  if (got < 0) {
    return system_problem("reading the configuration of the image", errno);
  }
  configuration.resize(static_cast<std::size_t>(got));
  return gocryptfs_key(configuration, passphrase, limits);
}

// A memfd with the key of the container's contents.
Outcome<UniqueFd> open_key(const OpenImage& source,
                           const Container& container,
                           const ConvertOptions& options) {
  POSTERN_TRY_ASSIGN(const UniqueFd configuration, read_configuration(container));
  POSTERN_TRY_ASSIGN(KeyMaterial material, need_key(options.key, true, false));
  POSTERN_TRY_ASSIGN(
      const SecretBytes passphrase,
      passphrase_of(*source.bytes, *source.info.sif, source.info.root_object, std::move(material)));
  POSTERN_TRY_ASSIGN(const SecretBytes contents,
                     container_key(configuration.get(), passphrase.bytes(), options.limits));
  UniqueFd key(::memfd_create("volume-key", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!key.valid()) {
    return system_problem("making room for the volume key", errno);
  }
  POSTERN_TRY(hand_over(key.get(), contents.bytes()));
  return key;
}

Outcome<Ok> decrypt_container(const OpenImage& source, const ConvertOptions& options) {
  const sif::Extent& extent = source.info.extent;
  const Container container = {
      .image = source.file.get(),
      .place = {"--offset", std::to_string(extent.offset), "--size", std::to_string(extent.bytes)}};
  POSTERN_TRY_ASSIGN(const UniqueFd key, open_key(source, container, options));
  POSTERN_TRY_ASSIGN(sif::Writer writer, create_output(options, source));
  const auto in_the_clear = [&](const sif::Descriptor& /*object*/,
                                sif::ObjectInput input) -> Outcome<std::uint32_t> {
    std::get<sif::PartitionInfo>(input.extra).fs = sif::FileSystem::kSquashfs;
    POSTERN_TRY_ASSIGN(Contents contents, Contents::begin(container, key.get()));
    auto written = writer.add(input, contents.fd());
    POSTERN_TRY(contents.end());
    return written;
  };
  POSTERN_TRY(copy_image(source, writer, in_the_clear));
  return writer.finish();
}

}  // namespace

Outcome<Ok> decrypt(const ConvertOptions& options) {
  if (const auto container = open_container(options.input)) {
    return decrypt_container(*container, options);
  }
  POSTERN_TRY_ASSIGN(const OpenImage source, open_image(options.input));
  if (!source.info.encrypted) {
    return Problem{.what = "the image is not encrypted"};
  }
  POSTERN_TRY_ASSIGN(const LuksHeader header, LuksHeader::load(*source.bytes, source.info.extent));
  POSTERN_TRY_ASSIGN(const KeyMaterial material, need_key(options.key, true, false));
  POSTERN_TRY_ASSIGN(const OpenedImage opened, open_with(header, source, material, options.limits));
  const CryptGeometry& geometry = header.geometry();

  POSTERN_TRY_ASSIGN(sif::Writer writer, create_output(options, source));
  const auto in_the_clear = [&](const sif::Descriptor& /*object*/,
                                sif::ObjectInput input) -> Outcome<std::uint32_t> {
    std::get<sif::PartitionInfo>(input.extra).fs = sif::FileSystem::kSquashfs;
    POSTERN_TRY_ASSIGN(const std::uint64_t at, writer.begin(input));
    message::Progress progress("Decrypting", geometry.data_bytes);
    POSTERN_TRY(
        run_cipher(CipherJob{.key = opened.luks.volume_key.bytes(),
                             .sector_bytes = geometry.sector_bytes,
                             .iv_offset = geometry.iv_offset,
                             .from = source.file.get(),
                             .from_offset = source.info.extent.offset + geometry.data_offset,
                             .from_bytes = geometry.data_bytes,
                             .to = writer.fd(),
                             .to_offset = at},
                   Direction::kDecrypt, [&](std::uint64_t done) { progress.advance(done); }));
    return writer.end(geometry.data_bytes);
  };
  POSTERN_TRY(copy_image(source, writer, in_the_clear));
  return writer.finish();
}

namespace {

// Signatures and seals, which cover the bytes of the header.
std::vector<std::uint32_t> covering_objects(const sif::Image& image) {
  std::vector<std::uint32_t> ids;
  for (const sif::Descriptor& object : image.descriptors()) {
    if (object.type == sif::DataType::kSignature || is_seal(object)) {
      ids.push_back(object.id);
    }
  }
  return ids;
}

}  // namespace

Outcome<Ok> rekey(const RekeyOptions& options) {
  if (open_container(options.image)) {
    return Problem{.what = options.image +
                           ": the keys of an image that an unprivileged Apptainer encrypted "
                           "(gocryptfs) cannot be changed in place",
                   .cure =
                       "make a copy in the clear with postern decrypt, and encrypt that with "
                       "postern encrypt"};
  }
  // ORDER: the lock before the header is read, so that two commands do not undo each other's work.
  auto writing = sif::Writer::open(options.image);
  if (!writing) {
    return Problem{.what = options.image + ": " + writing.error().what,
                   .cure = writing.error().cure};
  }
  sif::Writer writer = *std::move(writing);
  POSTERN_TRY_ASSIGN(const OpenImage source,
                     identify(UniqueFd(::fcntl(writer.fd(), F_DUPFD_CLOEXEC, 3)), options.image));
  if (!source.info.encrypted) {
    return Problem{.what = options.image + " is not encrypted",
                   .cure = "`postern encrypt` makes an encrypted copy"};
  }
  const std::vector<std::uint32_t> covering = covering_objects(*source.info.sif);
  if (!covering.empty() && !options.drop_signatures) {
    return Problem{
        .what = options.image + " is signed or sealed, and its keys are part of what is covered",
        .cure = "--drop-signatures removes them; sign the image again afterwards"};
  }
  const sif::Extent extent = source.info.extent;
  POSTERN_TRY_ASSIGN(LuksHeader header, LuksHeader::load(*source.bytes, extent));
  POSTERN_TRY_ASSIGN(const KeyMaterial material, need_key(options.key, true, false));
  POSTERN_TRY_ASSIGN(const OpenedImage opened, open_with(header, source, material, options.limits));
  POSTERN_TRY_ASSIGN(KeyMaterial wanted, need_key(options.new_key, false, true));
  POSTERN_TRY_ASSIGN(const NewSecret secret, new_secret(std::move(wanted)));
  POSTERN_TRY(
      header.add_secret(opened.luks.volume_key.bytes(), secret.bytes.bytes(), secret.full_entropy));
  if (!options.keep) {
    POSTERN_TRY(header.remove_slot(opened.luks.slot));
  }

  // ORDER: what the new key needs is there before the header that asks for it; what the old key
  // needed goes when the header no longer does.
  for (const std::uint32_t id : covering) {
    POSTERN_TRY(writer.remove(id));
  }
  if (!secret.message.empty()) {
    POSTERN_TRY(writer.add(message_object(source.info.root_group, source.info.root_object),
                           std::string_view(secret.message)));
  }
  POSTERN_TRY(writer.finish());
  POSTERN_TRY(header.store(writer.fd(), extent.offset, extent.bytes));
  if (!options.keep && opened.message != 0) {
    POSTERN_TRY(writer.remove(opened.message));
  }
  return writer.finish();
}

namespace {

// Of a sealed image the header is covered as well: where the data lies, and under which key, is
// what was sealed.
Outcome<Ok> check_header(const LuksHeader& header, const OpenImage& source) {
  POSTERN_TRY_ASSIGN(const sif::Descriptor* root, source.info.sif->object(source.info.root_object));
  POSTERN_TRY_ASSIGN(const std::optional<VerityGeometry> seal,
                     seal::find_seal(*source.info.sif, *source.bytes, *root));
  if (!seal) {
    return Ok{};
  }
  return seal::check_covered(
      *source.bytes, *seal, source.info.extent,
      {.offset = source.info.extent.offset, .bytes = header.metadata_bytes()});
}

}  // namespace

namespace {

Outcome<Ok> unlock_gocryptfs(const UnlockOptions& options) {
  POSTERN_TRY_ASSIGN(KeyMaterial material, need_key(options.key, true, false));
  Snapshot bytes(options.image_fd);
  POSTERN_TRY_ASSIGN(const sif::Image image, sif::read(bytes));
  POSTERN_TRY_ASSIGN(const sif::Descriptor* root, image.primary_partition());
  POSTERN_TRY_ASSIGN(const SecretBytes passphrase,
                     passphrase_of(bytes, image, root->id, std::move(material)));
  POSTERN_TRY_ASSIGN(const SecretBytes key,
                     container_key(options.gocryptfs_fd, passphrase.bytes(), options.limits));
  return hand_over(options.key_fd, key.bytes());
}

}  // namespace

Outcome<Ok> unlock(const UnlockOptions& options) {
  if (options.gocryptfs_fd >= 0) {
    return unlock_gocryptfs(options);
  }
  POSTERN_TRY_ASSIGN(
      const OpenImage source,
      identify(UniqueFd(::fcntl(options.image_fd, F_DUPFD_CLOEXEC, 3)), "the image"));
  POSTERN_TRY_ASSIGN(const LuksHeader header, LuksHeader::load(*source.bytes, source.info.extent));
  POSTERN_TRY(check_header(header, source));
  POSTERN_TRY_ASSIGN(const KeyMaterial material, need_key(options.key, true, false));
  POSTERN_TRY_ASSIGN(const OpenedImage opened, open_with(header, source, material, options.limits));
  POSTERN_TRY(hand_over(options.key_fd, opened.luks.volume_key.bytes()));
  const CryptGeometry& geometry = header.geometry();
  const std::string line =
      std::to_string(geometry.sector_bytes) + ' ' + std::to_string(geometry.data_offset) + ' ' +
      std::to_string(geometry.data_bytes) + ' ' + std::to_string(geometry.iv_offset) + '\n';
  if (::write(STDOUT_FILENO, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return system_problem("handing over the geometry", errno);
  }
  return Ok{};
}

}  // namespace postern::crypt
