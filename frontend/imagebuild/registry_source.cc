#include "frontend/imagebuild/registry_source.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/imagebuild/layers.h"
#include "frontend/message/message.h"
#include "frontend/net/digest.h"
#include "frontend/system/scratch_file.h"
#include "policy/sif/format.h"

namespace postern::imagebuild {
namespace {

constexpr int kMaxIndexes = 4;
constexpr unsigned kParallel = 4;  // as many as Docker and containers/image fetch at once
constexpr int kAttempts = 2;       // the second after blobs that had gone bad in the cache

std::string hex_of(const std::string& digest) {
  return digest.substr(digest.find(':') + 1);
}

std::string wanted_architecture(const OpenOptions& options) {
  return options.architecture.empty() ? std::string(sif::name_of(sif::host_architecture()))
                                      : options.architecture;
}

// One blob on its way, or in the cache already.
struct Blob {
  OciDescriptor descriptor;
  std::optional<cache::Claim> claim;    // nothing where the cache is off
  UniqueFd file;                        // then: one without a name
  std::unique_ptr<net::FileSink> sink;  // nothing where the cache had it

  [[nodiscard]] int fd() const { return claim ? claim->fd() : file.get(); }
};

// The layers of one image: where their bytes are, and the thread that fetches them.
class Download {
 public:
  Download(net::Registry registry, Remote& remote, std::string temporary)
      : registry_(std::move(registry)), remote_(&remote), temporary_(std::move(temporary)) {}

  Download(const Download&) = delete;
  Download& operator=(const Download&) = delete;

  ~Download() { stop(); }

  // Takes the blobs that the cache has and begins to fetch the others.
  Outcome<> begin(const std::vector<OciDescriptor>& layers);
  // Waits for the end; the cache gets what is whole.
  Outcome<> end();
  // Ends it early.
  void stop();
  // After a failure: throws out what the cache holds under a wrong digest. True: there was such.
  bool drop_bad_blobs();

  [[nodiscard]] const Blob& blob(const std::string& digest) const { return blobs_.at(digest); }

 private:
  Outcome<> add(const OciDescriptor& layer);
  Outcome<net::Request> request_of(Blob& blob);
  Outcome<> fetch();
  Outcome<> finish(Blob& blob);
  Outcome<> fetch_all();  // what thread_ runs

  net::Registry registry_;
  Remote* remote_;
  std::string temporary_;
  std::map<std::string, Blob> blobs_;  // in the order in which every process takes locks
  std::vector<std::string> order_;     // in which they are needed
  std::thread thread_;
  Outcome<> result_;
  std::atomic<bool> stopped_ = false;
  bool resumed_ = false;    // some blob goes on where another process was cut
  bool bad_start_ = false;  // and what that one had written was wrong
};

Outcome<> Download::add(const OciDescriptor& layer) {
  Blob blob;
  blob.descriptor = layer;
  POSTERN_TRY_ASSIGN(cache::Cache* const cache, remote_->cache());
  if (cache->enabled()) {
    POSTERN_TRY_ASSIGN(cache::Claim claim, cache->claim(cache::Type::kBlob, hex_of(layer.digest)));
    if (claim.ready()) {
      POSTERN_TRY_ASSIGN(const std::uint64_t size, claim.size());
      if (size != layer.size) {
        message::verbose("the cache's blob " + layer.digest + " is not whole: fetching it anew");
        POSTERN_TRY(claim.replace());
      }
    }
    blob.claim.emplace(std::move(claim));
  } else {
    POSTERN_TRY_ASSIGN(blob.file, system::scratch_file(temporary_));
  }
  if (!blob.claim || !blob.claim->ready()) {
    blob.sink = std::make_unique<net::FileSink>(
        blob.fd(), layer.size, layer.digest, [this, digest = layer.digest](int err) {
          const Blob& full = blobs_.at(digest);
          return full.claim ? full.claim->unwritable(err)
                            : system::scratch_problem(temporary_, err);
        });
    if (blob.claim) {
      POSTERN_TRY_ASSIGN(const std::uint64_t present, blob.claim->size());
      resumed_ = resumed_ || present > 0;
      POSTERN_TRY(blob.sink->resume(present));
    }
  }
  blobs_.emplace(layer.digest, std::move(blob));
  return Ok{};
}

// A registry need not hold a foreign layer; then it is at one of the places that the manifest
// names. No credentials go there, and it is not this machine's own network.
Outcome<net::Request> Download::request_of(Blob& blob) {
  const OciDescriptor& layer = blob.descriptor;
  net::Request request = registry_.blob_request(layer.digest);
  request.sink = blob.sink.get();
  if (!is_foreign_layer(layer.media_type) || layer.urls.empty()) {
    return request;
  }
  POSTERN_TRY_ASSIGN(const bool held, registry_.has_blob(layer.digest));
  if (held) {
    return request;
  }
  const std::string& url = layer.urls.front();
  POSTERN_TRY_ASSIGN(const std::string host, net::host_of(url));
  if (net::is_private_address(host) ||
      (!url.starts_with("https://") && !remote_->options().no_https)) {
    return Problem{.what = "the foreign layer " + layer.digest + " is said to be at " + url,
                   .cure =
                       "nothing is fetched from private networks or without TLS because an "
                       "image says so"};
  }
  message::info("Fetching a foreign layer from " + url);
  net::Request foreign{.url = url};
  foreign.sink = blob.sink.get();
  return foreign;
}

Outcome<> Download::fetch() {
  std::vector<net::Request> requests;
  std::vector<Blob*> fetched;
  for (const std::string& digest : order_) {
    Blob& blob = blobs_.at(digest);
    if (blob.sink && blob.sink->position() < blob.descriptor.size) {
      POSTERN_TRY_ASSIGN(net::Request request, request_of(blob));
      requests.push_back(std::move(request));
      fetched.push_back(&blob);
    }
  }
  POSTERN_TRY_ASSIGN(const std::vector<net::Answer> answers,
                     remote_->session().client().perform_all(requests, kParallel));
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].status != 200 && answers[i].status != 206) {
      Problem problem = net::unexpected_answer(
          "reading layer " + fetched[i]->descriptor.digest + " of " + registry_.reference().name(),
          answers[i]);
      if (is_foreign_layer(fetched[i]->descriptor.media_type)) {
        problem.cure =
            "it is a foreign layer, which its registry does not hand out: ask the "
            "image's publisher for one that is whole";
      }
      return problem;
    }
  }
  return Ok{};
}

Outcome<> Download::finish(Blob& blob) {
  auto whole = blob.sink->finish();
  if (!whole) {
    if (blob.claim) {
      blob.claim->discard();  // other bytes than the image's are no start for another try
    }
    bad_start_ = resumed_;
    return std::move(whole).error();
  }
  return blob.claim ? blob.claim->commit() : Outcome<>();
}

Outcome<> Download::fetch_all() {
  const Outcome<> fetched = fetch();
  Outcome<> result = fetched;
  // A full disk is not left full of beginnings, nor one that what is made of them has filled.
  const bool useless = interrupt_signal() == 0 &&
                       (stopped_ || std::any_of(blobs_.begin(), blobs_.end(), [](const auto& one) {
                          return one.second.sink && one.second.sink->refused();
                        }));
  for (auto& [digest, blob] : blobs_) {
    if (!blob.sink) {
      continue;
    }
    if (!fetched) {
      if (useless && blob.claim) {
        blob.claim->discard();
      }
      blob.sink->fail(fetched.error());
    } else if (Outcome<> finished = finish(blob); !finished) {
      result = std::move(finished);
    }
  }
  return result;
}

Outcome<> Download::begin(const std::vector<OciDescriptor>& layers) {
  std::map<std::string, const OciDescriptor*> sorted;
  for (const OciDescriptor& layer : layers) {
    const auto [at, fresh] = sorted.emplace(layer.digest, &layer);
    if (!fresh && at->second->size != layer.size) {
      return Problem{.what = "the manifest gives layer " + layer.digest + " two sizes"};
    }
    if (fresh) {
      order_.push_back(layer.digest);
    }
  }
  // ORDER: every process takes the locks of several blobs in the order of their digests, so that
  // no two wait for each other.
  for (const auto& [digest, layer] : sorted) {
    POSTERN_TRY(add(*layer));
  }
  thread_ = std::thread([this] { result_ = fetch_all(); });
  return Ok{};
}

Outcome<> Download::end() {
  if (thread_.joinable()) {
    thread_.join();
  }
  return std::exchange(result_, Outcome<>());
}

void Download::stop() {
  stopped_ = true;
  remote_->abandon(true);
  (void)end();
  remote_->abandon(false);
}

bool Download::drop_bad_blobs() {
  bool dropped = bad_start_;
  for (auto& [digest, blob] : blobs_) {
    if (blob.sink || !blob.claim || !blob.claim->ready()) {
      continue;
    }
    const auto found = net::sha256_of_file(blob.fd(), blob.descriptor.size);
    if (found && *found == hex_of(digest)) {
      continue;
    }
    message::warning("the cache's blob " + digest + " is damaged: fetching it anew");
    if (blob.claim->replace()) {
      blob.claim->discard();
      dropped = true;
    }
  }
  return dropped;
}

class RegistrySource : public Source {
 public:
  RegistrySource(net::Registry registry,
                 Remote& remote,
                 std::string temporary,
                 std::vector<OciDescriptor> layers,
                 std::vector<std::string> diff_ids)
      : registry_(std::move(registry)),
        remote_(&remote),
        temporary_(std::move(temporary)),
        layers_(std::move(layers)),
        diff_ids_(std::move(diff_ids)) {}

  Outcome<Tree> index() override {
    for (int attempt = 1;; ++attempt) {
      download_ = std::make_unique<Download>(registry_, *remote_, temporary_);
      POSTERN_TRY(download_->begin(layers_));
      inner_ = layer_source(layers(), {.whiteouts = true});
      auto tree = inner_->index();
      // All bytes are here, or never will be: a reader that fails has often met the same trouble
      // that the network reports in better words.
      auto fetched = download_->end();
      if (tree && fetched) {
        return tree;
      }
      POSTERN_TRY(check_interrupt());
      Problem problem = !fetched ? std::move(fetched).error() : std::move(tree).error();
      if (attempt == kAttempts || !download_->drop_bad_blobs()) {
        return problem;
      }
    }
  }

  Outcome<> stream(Tree& tree, ContentSink& sink, message::Progress& progress) override {
    return inner_->stream(tree, sink, progress);
  }

  [[nodiscard]] std::uint64_t bytes() const override { return inner_ ? inner_->bytes() : 0; }

  Outcome<std::string> head(const Tree& tree, InodeId file, std::size_t most) override {
    return inner_->head(tree, file, most);
  }

 private:
  [[nodiscard]] std::vector<Layer> layers() const {
    std::vector<Layer> out;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Blob& blob = download_->blob(layers_[i].digest);
      Layer layer;
      layer.fd = blob.fd();
      layer.size = layers_[i].size;
      layer.name = "layer " + std::to_string(i + 1) + " of " + std::to_string(layers_.size()) +
                   " in " + registry_.reference().name();
      layer.diff_id = diff_ids_[i];
      if (net::FileSink* const sink = blob.sink.get(); sink != nullptr) {
        layer.available = [sink](std::uint64_t position) { return sink->wait(position); };
      } else {
        layer.digest = layers_[i].digest;  // what is fetched now is checked as it arrives
      }
      out.push_back(std::move(layer));
    }
    return out;
  }

  net::Registry registry_;
  Remote* remote_;
  std::string temporary_;
  std::vector<OciDescriptor> layers_;
  std::vector<std::string> diff_ids_;
  std::unique_ptr<Download> download_;
  std::unique_ptr<Source> inner_;  // reads what `download_` owns: gone before it
};

Outcome<> check_layers(const OciManifest& manifest, const std::string& name) {
  constexpr std::string_view kSif = "application/vnd.sylabs.sif.";
  const bool any =
      std::any_of(manifest.layers.begin(), manifest.layers.end(),
                  [](const OciDescriptor& layer) { return is_tar_layer(layer.media_type); });
  if (!any && !manifest.layers.empty()) {
    const bool sif = manifest.config.media_type.starts_with(kSif) ||
                     manifest.layers.front().media_type.starts_with(kSif);
    return Problem{.what = "no extractable OCI/Docker tar layers found in this image: " + name,
                   .cure = sif ? "it is a SIF image: use oras:// instead of docker://"
                               : "it is not a container image but '" +
                                     manifest.layers.front().media_type.substr(0, 100) + "'"};
  }
  for (const OciDescriptor& layer : manifest.layers) {
    if (!is_tar_layer(layer.media_type)) {
      return Problem{.what = "a layer of " + name + " is '" + layer.media_type.substr(0, 100) +
                             "', not a tar archive"};
    }
  }
  return Ok{};
}

}  // namespace

Outcome<ChosenManifest> choose_manifest(net::Registry& registry, const OpenOptions& options) {
  const net::Reference& reference = registry.reference();
  ChosenManifest out;
  POSTERN_TRY_ASSIGN(out.document, registry.manifest(reference.target()));
  out.digest = out.document.digest;
  for (int depth = 0; is_index(out.document.media_type); ++depth) {
    if (depth == kMaxIndexes) {
      return Problem{.what =
                         "the image index of " + reference.name() + " leads from index to index"};
    }
    POSTERN_TRY_ASSIGN(const std::vector<OciDescriptor> candidates,
                       parse_oci_index(out.document.bytes));
    POSTERN_TRY_ASSIGN(const OciDescriptor chosen,
                       choose_platform(candidates, wanted_architecture(options), options.variant,
                                       reference.name()));
    POSTERN_TRY_ASSIGN(out.document, registry.manifest(chosen.digest));
    if ((!chosen.media_type.empty() && out.document.media_type != chosen.media_type) ||
        out.document.bytes.size() != chosen.size) {
      return Problem{.what = "the index of " + reference.name() + " calls " + chosen.digest + " '" +
                             chosen.media_type.substr(0, 100) + "' of " +
                             std::to_string(chosen.size) + " bytes; it is '" +
                             out.document.media_type + "' of " +
                             std::to_string(out.document.bytes.size()),
                     .cure = "two readers may take it for two images: do not trust it"};
    }
  }
  return out;
}

Outcome<OpenedSource> open_registry_image(const SourceSpec& spec, const OpenOptions& options) {
  if (options.remote == nullptr) {
    return Problem{.what = "'" + spec.path + "' is not on this machine"};
  }
  Remote& remote = *options.remote;
  POSTERN_TRY_ASSIGN(net::Reference reference, net::parse_reference(spec.path));
  reference.digest = options.pin.empty() ? reference.digest : options.pin;
  POSTERN_TRY_ASSIGN(net::Registry registry, net::Registry::open(remote.session(), reference));
  POSTERN_TRY_ASSIGN(const ChosenManifest chosen, choose_manifest(registry, options));
  POSTERN_TRY(remote.check_signature(registry, chosen.digest));
  POSTERN_TRY_ASSIGN(OciManifest manifest, parse_oci_manifest(chosen.document.bytes));
  POSTERN_TRY(check_layers(manifest, reference.name()));
  POSTERN_TRY_ASSIGN(const std::string config,
                     registry.document(manifest.config.digest, manifest.config.size));
  POSTERN_TRY_ASSIGN(ParsedConfig parsed, parse_image_config(config));
  if (parsed.diff_ids.size() != manifest.layers.size()) {
    return Problem{.what = "the manifest lists " + std::to_string(manifest.layers.size()) +
                           " layers, the configuration " + std::to_string(parsed.diff_ids.size()) +
                           " (" + reference.name() + ")",
                   .cure = "the image is damaged, or was made by a broken tool"};
  }
  const std::string& architecture = parsed.config.architecture;
  if (!architecture.empty() && architecture != wanted_architecture(options)) {
    message::warning("Architecture " + architecture + " does not match build arch " +
                     wanted_architecture(options));
  }
  OpenedSource out;
  out.config = std::move(parsed.config);
  out.source =
      std::make_unique<RegistrySource>(std::move(registry), remote, options.temporary,
                                       std::move(manifest.layers), std::move(parsed.diff_ids));
  return out;
}

}  // namespace postern::imagebuild
