// Points in a canvas, to be turned and zoomed: all that knows three.js, and nothing of any page.
import {
  BufferAttribute,
  BufferGeometry,
  PerspectiveCamera,
  Points,
  Scene,
  ShaderMaterial,
  Vector3,
  WebGLRenderer,
} from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";

const FIELD_OF_VIEW = 35;
// Discs a little wider than the points are apart close most holes.
const DISC = 1.7;
const MARGIN = 1.06;
const CEILING_SHARE = 0.04;

// Colours are those of the screen and are passed on as they are: three.js would take vertex
// colours of its own materials for linear ones and wash them out.
const VERTEX = `
attribute vec3 tint;
uniform float size;
uniform float ceiling;
uniform float open;
varying vec3 shade;
void main() {
  vec4 seen = modelViewMatrix * vec4(position, 1.0);
  vec3 ray = cameraPosition - position;
  float facing = dot(normal, ray);
  bool roof = position.z > ceiling && cameraPosition.z > ceiling;
  bool hidden = open > 0.5 && (facing < 0.0 || roof);
  gl_Position = hidden ? vec4(0.0, 0.0, 2.0, 1.0) : projectionMatrix * seen;
  gl_PointSize = clamp(size / -seen.z, 1.5, 96.0);
  float head_on = dot(normal, normal) > 0.0 ? abs(facing) / length(ray) : 1.0;
  shade = tint * (0.7 + 0.3 * head_on);
}`;
const FRAGMENT = `
varying vec3 shade;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.25) discard;
  gl_FragColor = vec4(shade, 1.0);
}`;

/** A viewer in `canvas`, or null where the browser shows no WebGL 2. */
export function createViewer(canvas) {
  const context = canvas.getContext("webgl2", { alpha: true, antialias: true });
  return context ? new Viewer(canvas, context) : null;
}

class Viewer {
  constructor(canvas, context) {
    this.canvas = canvas;
    this.renderer = new WebGLRenderer({ canvas, context, alpha: true });
    this.renderer.setClearColor(0, 0);
    this.camera = new PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 1000);
    this.camera.up.set(0, 0, 1);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.addEventListener("change", () => this.ask());
    this.world = new Scene();
    this.material = new ShaderMaterial({
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      uniforms: { size: { value: 1 }, ceiling: { value: 0 }, open: { value: 1 } },
    });
    this.points = null;
    this.twin = null;
    this.isDouble = false;
    this.size = "";
    this.waiting = false;
    canvas.addEventListener("webglcontextrestored", () => this.ask());
    new ResizeObserver(() => this.ask()).observe(canvas);
  }

  /**
   * Other points: `positions` (3N) float32 metres, z up; `normals` (3N) int8, out of the surface,
   * zeros where not known; `spacing` metres between neighbours.
   */
  show({ positions, normals, spacing }) {
    for (const old of [this.points, this.twin]) {
      if (!old) continue;
      this.world.remove(old);
      old.geometry.dispose();
    }
    const place = new BufferAttribute(positions, 3);
    const normal = new BufferAttribute(normals, 3, true);
    const cloud = () => {
      const geometry = new BufferGeometry();
      geometry.setAttribute("position", place);
      geometry.setAttribute("normal", normal);
      const tint = new Uint8Array(positions.length).fill(255);
      geometry.setAttribute("tint", new BufferAttribute(tint, 3, true));
      return new Points(geometry, this.material);
    };
    this.points = cloud();
    this.twin = cloud();
    this.twin.visible = false;
    const { geometry } = this.points;
    geometry.computeBoundingBox();
    for (const one of [this.points, this.twin]) one.geometry.computeBoundingSphere();
    const { min, max } = geometry.boundingBox;
    this.material.uniforms.ceiling.value = max.z - CEILING_SHARE * (max.z - min.z);
    this.middle = geometry.boundingBox.getCenter(new Vector3());
    this.radius = Math.max(min.distanceTo(max) / 2, 1e-3);
    this.spacing = spacing;
    this.world.add(this.points, this.twin);
    this.ask();
  }

  /**
   * Colours (3N) uint8, as the screen shall show them where a surface is seen head-on; with
   * `beside` the same points are drawn twice, side by side, in one colouring each.
   */
  paint(colors, beside = null) {
    this.tint(this.points, colors);
    if (beside) this.tint(this.twin, beside);
    this.isDouble = Boolean(beside);
    this.ask();
  }

  tint(points, colors) {
    const tint = points.geometry.getAttribute("tint");
    tint.array.set(colors);
    tint.needsUpdate = true;
  }

  /** Looks at the whole from direction `outward` (3 numbers, from the middle to the eye). */
  look(outward) {
    const toward = new Vector3(...outward).normalize();
    const distance = this.fitting(toward);
    this.controls.target.copy(this.middle);
    this.camera.position.copy(this.middle);
    this.camera.position.addScaledVector(toward, distance);
    this.camera.near = this.radius / 200;
    this.camera.far = this.radius * 40;
    this.controls.minDistance = this.radius / 20;
    this.controls.maxDistance = this.radius * 15;
    this.controls.update();
    this.ask();
  }

  /** How far from the middle an eye in direction `toward` sees every corner of the box. */
  fitting(toward) {
    const tangent = Math.tan(((FIELD_OF_VIEW / 2) * Math.PI) / 180);
    const right = new Vector3().crossVectors(this.camera.up, toward).normalize();
    const up = new Vector3().crossVectors(toward, right);
    const { min, max } = this.points.geometry.boundingBox;
    let distance = this.radius / 2;
    for (const x of [min.x, max.x])
      for (const y of [min.y, max.y])
        for (const z of [min.z, max.z]) {
          const corner = new Vector3(x, y, z).sub(this.middle);
          const across = Math.abs(corner.dot(right)) / (tangent * Math.max(this.aspect(), 0.1));
          const along = Math.abs(corner.dot(up)) / tangent;
          distance = Math.max(distance, corner.dot(toward) + MARGIN * Math.max(across, along));
        }
    return distance;
  }

  /** Turns by angles to the left and up, radians. */
  turn(left, up) {
    this.controls.rotateLeft(left);
    this.controls.rotateUp(up);
  }

  /** Comes nearer (`factor` above 1) or goes back (under 1). */
  zoom(factor) {
    this.controls.dollyIn(1 / factor);
  }

  /** Whether walls between the eye and the room, and the ceiling from above, are left out. */
  openUp(open) {
    this.material.uniforms.open.value = open ? 1 : 0;
    this.ask();
  }

  /** Whether the wheel and two fingers zoom; else they scroll the page. */
  grab(held) {
    this.controls.enableZoom = held;
    this.canvas.style.touchAction = held ? "none" : "pan-y";
  }

  /** Draws once before the next frame, however often it is asked. */
  ask() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.draw());
  }

  aspect() {
    const width = this.canvas.clientWidth / (this.isDouble ? 2 : 1);
    return width / Math.max(this.canvas.clientHeight, 1);
  }

  draw() {
    this.waiting = false;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height || !this.points) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    // Setting a size anew throws the picture away, even where it is the same.
    if (this.size !== `${width} ${height} ${ratio}`) {
      this.size = `${width} ${height} ${ratio}`;
      this.renderer.setPixelRatio(ratio);
      this.renderer.setSize(width, height, false);
    }
    this.camera.aspect = this.aspect();
    this.camera.updateProjectionMatrix();
    const lens = 2 * Math.tan(((FIELD_OF_VIEW / 2) * Math.PI) / 180);
    this.material.uniforms.size.value = (DISC * this.spacing * height * ratio) / lens;
    const halves = this.isDouble ? [this.points, this.twin] : [this.points];
    const each = width / halves.length;
    this.renderer.setScissorTest(this.isDouble);
    halves.forEach((half, k) => {
      this.points.visible = half === this.points;
      this.twin.visible = half === this.twin;
      this.renderer.setViewport(k * each, 0, each, height);
      this.renderer.setScissor(k * each, 0, each, height);
      this.renderer.render(this.world, this.camera);
    });
  }
}
