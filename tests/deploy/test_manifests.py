"""compose.yaml, the kustomize files and Envoy's: no program that knows them is in
Debian, so what they refer to, promise and forbid is checked here. The other
proxies' files are run, in tests/functional."""

import os
import re
import subprocess
import unittest

import yaml

import harness

DEPLOY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy")
KUBERNETES = os.path.join(DEPLOY, "kubernetes")
KEY_SHA256 = "0" * 64
# What the daemon takes after the drain: to end what is left, and to let answers out.
ENDING_MS = 15000 + 5000


def load(*path):
    with open(os.path.join(DEPLOY, *path), encoding="utf-8") as f:
        return list(yaml.safe_load_all(f))


def check_config(case, *path):
    """`settled --check` has nothing to say about it; its content."""
    name = os.path.join(DEPLOY, *path)
    run = subprocess.run([harness.SETTLED[-1], "--check", "--config", name], capture_output=True, text=True, check=False,
                         env={**os.environ, "SETTLED_KEY_SHA256": KEY_SHA256})
    case.assertEqual(run.returncode, 0, run.stderr)
    return load(*path)[0]


def limit(config, name):
    defaults = subprocess.run([harness.SETTLED[-1], "--defaults"], capture_output=True, text=True, check=True).stdout
    return config.get("limits", {}).get(name, yaml.safe_load(defaults)["limits"][name])


class Compose(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        cls.compose, = load("compose.yaml")
        cls.services = cls.compose["services"]

    def test_it_has_the_four_services_and_they_know_each_other(self):
        self.assertEqual(set(self.services), {"settled", "downstream", "prometheus", "grafana"})
        for name, service in self.services.items():
            self.assertLessEqual(set(service.get("depends_on", [])), set(self.services), name)
            for key in service:
                self.assertIn(key, {"build", "image", "read_only", "cap_drop", "security_opt", "stop_grace_period", "restart",
                                    "ports", "volumes", "environment", "depends_on"}, name)
        config = check_config(self, "compose", "settled.yaml")
        self.assertEqual(config["services"]["push"]["url"], "http://downstream:9090/{to}")
        scrape, = load("compose", "prometheus.yml")
        self.assertEqual(scrape["scrape_configs"][0]["static_configs"][0]["targets"], ["settled:8080"])
        source, = load("grafana", "provisioning", "datasources", "prometheus.yaml")
        self.assertEqual(source["datasources"][0]["url"], "http://prometheus:9090")
        boards, = load("grafana", "provisioning", "dashboards", "settled.yaml")
        self.assertIn(boards["providers"][0]["options"]["path"], [v.split(":")[1] for v in self.services["grafana"]["volumes"]])

    def test_every_file_and_volume_that_it_mounts_is_there(self):
        for name, service in self.services.items():
            for volume in service.get("volumes", []):
                source, target, *mode = volume.split(":")
                self.assertTrue(target.startswith("/"), volume)
                if source.startswith("."):
                    self.assertTrue(os.path.exists(os.path.join(DEPLOY, source)), f"{name}: {volume}")
                    self.assertEqual(mode, ["ro"], volume)
                else:
                    self.assertIn(source, self.compose["volumes"], name)

    def test_it_can_be_reached_from_this_machine_alone(self):
        published = [port for service in self.services.values() for port in service["ports"]]
        for port in published:
            self.assertRegex(port, r"^127\.0\.0\.1:\d+:\d+$")
        self.assertEqual(len(published), len({p.split(":")[1] for p in published}))

    def test_images_are_pinned_and_what_is_built_has_its_stage(self):
        with open(os.path.join(DEPLOY, "..", "Dockerfile"), encoding="utf-8") as f:
            stages = re.findall(r"^FROM \S+ AS (\w+)$", f.read(), re.M)
        self.assertEqual(stages[-1], "settled", "the image that is built without a target")
        for name, service in self.services.items():
            if "build" in service:
                self.assertTrue(os.path.exists(os.path.join(DEPLOY, service["build"]["context"], "Dockerfile")))
                self.assertIn(service["build"]["target"], stages)
            else:
                self.assertRegex(service["image"], r"^[\w./-]+:v?\d+\.\d+\.\d+$", name)

    def test_it_grants_nothing_and_waits_for_the_drain(self):
        for name, service in self.services.items():
            self.assertEqual((service["cap_drop"], service["security_opt"]), (["ALL"], ["no-new-privileges:true"]), name)
        config = check_config(self, "compose", "settled.yaml")
        grace_ms = int(self.services["settled"]["stop_grace_period"].removesuffix("s")) * 1000
        self.assertGreater(grace_ms, limit(config, "lame_duck_ms") + limit(config, "drain_ms") + ENDING_MS)


class Kubernetes(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        cls.base, = load("kubernetes", "base", "kustomization.yaml")
        cls.durable, = load("kubernetes", "durable", "kustomization.yaml")
        cls.all = [doc for name in cls.base["resources"] for doc in load("kubernetes", "base", name)]
        cls.all += load("kubernetes", "durable", "statefulset.yaml")
        cls.workloads = {w["kind"]: w["spec"] for w in cls.all if w["kind"] in ("Deployment", "StatefulSet")}
        cls.configs = {"Deployment": "base", "StatefulSet": "durable"}

    def one(self, kind, name="settled"):
        found = [doc for doc in self.all if (doc["kind"], doc["metadata"]["name"]) == (kind, name)]
        self.assertEqual(len(found), 1, kind)
        return found[0]

    def each(self):
        for kind, spec in self.workloads.items():
            pod = spec["template"]["spec"]
            container, = pod["containers"]
            yield kind, pod, container, check_config(self, "kubernetes", self.configs[kind], "settled.yaml")

    def test_all_files_are_named_and_all_names_are_files(self):
        for folder in ("base", "durable"):
            kustomization, = load("kubernetes", folder, "kustomization.yaml")
            named = {n for n in kustomization["resources"] if n.endswith(".yaml")}
            for generator in kustomization["configMapGenerator"]:
                named |= set(generator["files"])
            there = {n for n in os.listdir(os.path.join(KUBERNETES, folder)) if n.endswith(".yaml")}
            self.assertEqual(there - {"kustomization.yaml"}, named)
        self.assertEqual(load("kubernetes", "kustomization.yaml")[0]["resources"], ["base"])
        self.assertEqual(self.durable["resources"], ["../base", "statefulset.yaml"])
        self.assertEqual({doc["kind"] for doc in self.all}, {
            "Namespace", "ServiceAccount", "Deployment", "StatefulSet", "Service", "PodDisruptionBudget",
            "HorizontalPodAutoscaler", "NetworkPolicy"})

    def test_the_durable_one_takes_the_place_of_the_deployment(self):
        deleted = [yaml.safe_load(p["patch"]) for p in self.durable["patches"]]
        self.assertEqual({(d["kind"], d["$patch"]) for d in deleted}, {("Deployment", "delete"), ("HorizontalPodAutoscaler", "delete")})
        for patch in deleted:
            self.assertEqual(patch["apiVersion"], self.one(patch["kind"])["apiVersion"])
        self.assertEqual(self.durable["images"], self.base["images"])
        self.assertEqual(self.workloads["StatefulSet"]["replicas"], 1)

    def test_the_pods_need_no_more_than_the_restricted_profile_grants(self):
        self.assertEqual(self.one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")
        for kind, pod, container, _ in self.each():
            with self.subTest(kind=kind):
                self.assertEqual(set(pod) & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}, set())
                self.assertIs(pod["automountServiceAccountToken"], False)
                outer, inner = pod["securityContext"], container["securityContext"]
                self.assertIs(outer["runAsNonRoot"], True)
                self.assertGreater(outer["runAsUser"], 0)
                self.assertEqual(outer["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertEqual(inner, {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                         "capabilities": {"drop": ["ALL"]}})
                for volume in pod["volumes"]:
                    self.assertEqual(set(volume) - {"name"}, set(volume) & {"configMap", "emptyDir"})
                self.assertFalse([p for p in container["ports"] if "hostPort" in p])
                self.assertEqual(set(container["resources"]), {"requests", "limits"})

    def test_ports_and_probes_are_those_of_the_configuration(self):
        for kind, _, container, config in self.each():
            with self.subTest(kind=kind):
                ports = {p["name"]: p["containerPort"] for p in container["ports"]}
                self.assertEqual((config["listen"], config["operations"]), (f"0.0.0.0:{ports['http']}", f"0.0.0.0:{ports['operations']}"))
                for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
                    self.assertEqual(container[probe]["httpGet"], {"path": path, "port": "operations"})
        for service in (self.one("Service"), self.one("Service", "settled-operations")):
            for port in service["spec"]["ports"]:
                self.assertIn(port["targetPort"], ("http", "operations"))
        policy = self.one("NetworkPolicy")["spec"]
        self.assertEqual([rule["ports"][0]["port"] for rule in policy["ingress"]], ["http", "operations"])
        self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])

    def test_a_pod_has_the_time_that_its_end_takes(self):
        for kind, pod, container, config in self.each():
            with self.subTest(kind=kind):
                sleep_ms = container["lifecycle"]["preStop"]["sleep"]["seconds"] * 1000
                needed = sleep_ms + limit(config, "lame_duck_ms") + limit(config, "drain_ms") + ENDING_MS
                self.assertGreaterEqual(pod["terminationGracePeriodSeconds"] * 1000, needed)
                readiness = container["readinessProbe"]
                self.assertGreater(sleep_ms + limit(config, "lame_duck_ms"),
                                   readiness["periodSeconds"] * readiness["failureThreshold"] * 1000)

    def test_what_is_mounted_is_there_and_what_lasts_has_a_disk(self):
        generated = {g["name"] for g in self.base["configMapGenerator"] + self.base["secretGenerator"]}
        for kind, pod, container, config in self.each():
            with self.subTest(kind=kind):
                claims = [c["metadata"]["name"] for c in self.workloads[kind].get("volumeClaimTemplates", [])]
                self.assertEqual({m["name"] for m in container["volumeMounts"]}, {v["name"] for v in pod["volumes"]} | set(claims))
                used = {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v}
                used |= {e["secretRef"]["name"] for e in container["envFrom"]}
                self.assertEqual(used, generated)
                mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
                self.assertEqual(mounts["/etc/settled"], "config")
                if claims:
                    self.assertTrue(config["store"]["path"].startswith("/var/lib/settled/"))
                    self.assertEqual([mounts["/var/lib/settled"]], claims)
                else:
                    self.assertEqual(config["store"], {"memory": True}, "a disk that goes with the pod is none")

    def test_several_replicas_are_scaled_and_disrupted_with_care(self):
        spec = self.one("HorizontalPodAutoscaler")["spec"]
        self.assertEqual((spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]), ("Deployment", "settled"))
        self.assertGreaterEqual(spec["minReplicas"], 2)
        self.assertNotIn("replicas", self.workloads["Deployment"])
        self.assertEqual(self.one("PodDisruptionBudget")["spec"]["maxUnavailable"], 1)
        self.assertEqual(self.workloads["Deployment"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0)
        self.assertEqual(self.one("Service")["spec"]["sessionAffinity"], "ClientIP")

    def test_no_secret_is_in_the_repository(self):
        self.assertEqual(self.base["secretGenerator"], [{"name": "settled-secrets", "envs": ["secrets.env"]}])
        with open(os.path.join(KUBERNETES, "base", "secrets.env.example"), encoding="utf-8") as f:
            names = [line.rstrip("\n") for line in f if not line.startswith("#")]
        self.assertEqual(names, ["SETTLED_KEY_SHA256="])
        with open(os.path.join(DEPLOY, "..", ".gitignore"), encoding="utf-8") as f:
            self.assertIn("/deploy/kubernetes/base/secrets.env\n", f.readlines())
        self.assertFalse([doc for doc in self.all if doc["kind"] == "Secret"])


class Envoy(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        resources = load("proxies", "envoy.yaml")[0]["static_resources"]
        cls.listener, cls.cluster = resources["listeners"][0], resources["clusters"][0]
        cls.manager = cls.listener["filter_chains"][0]["filters"][0]["typed_config"]
        cls.route = cls.manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]

    def test_nothing_cuts_a_batch_short_or_holds_its_lines_back(self):
        self.assertEqual((self.route["timeout"], self.manager["stream_idle_timeout"]), ("0s", "0s"))
        self.assertEqual([f["name"] for f in self.manager["http_filters"]], ["envoy.filters.http.router"])

    def test_only_a_connection_that_was_never_made_is_tried_again(self):
        self.assertEqual(self.route["retry_policy"], {"retry_on": "connect-failure", "num_retries": 1})

    def test_it_asks_readyz_and_drops_kept_connections_before_the_daemon_does(self):
        check, = self.cluster["health_checks"]
        self.assertEqual(check["http_health_check"], {"path": "/readyz"})
        options, = self.cluster["typed_extension_protocol_options"].values()
        idle_ms = int(options["common_http_protocol_options"]["idle_timeout"].removesuffix("s")) * 1000
        self.assertLess(idle_ms, limit({}, "idle_ms"))
        self.assertEqual(self.route["cluster"], self.cluster["name"])


class Container(unittest.TestCase):
    longMessage = True

    def test_every_variable_of_the_image_s_file_has_a_default_but_the_key(self):
        with open(os.path.join(DEPLOY, "container.yaml"), encoding="utf-8") as f:
            text = f.read()
        used = set(re.findall(r"^[^#\n]*\$\{(\w+)\}", text, re.M))
        self.assertEqual(re.findall(r"\$\{(\w+):-\}", text), ["SETTLED_OPERATIONS"])
        with open(os.path.join(DEPLOY, "..", "Dockerfile"), encoding="utf-8") as f:
            given = dict(re.findall(r"(SETTLED_\w+)=([^\s\\]+)(?: \\)?$", f.read(), re.M))
        self.assertEqual(used - {"SETTLED_KEY_SHA256"}, set(given) - {"SETTLED_CONFIG"})
        run = subprocess.run([harness.SETTLED[-1], "--check", "--config", os.path.join(DEPLOY, "container.yaml")],
                             capture_output=True, text=True, check=False,
                             env={**os.environ, **given, "SETTLED_KEY_SHA256": KEY_SHA256})
        self.assertEqual(run.returncode, 0, run.stderr)


if __name__ == "__main__":
    harness.main()
